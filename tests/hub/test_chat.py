"""Chat templates run as in `transformers`, and cannot reach out of their sandbox."""

import json
from datetime import datetime

import pytest

from jlab.hub import ChatTemplate, load_chat_template, stop_ids
from tests.hub.models import edit, folder_of

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": "Be <brief>."},
    {"role": "user", "content": " Hello, Zoë! "},
    {"role": "assistant", "content": "Hi"},
]
# The constructs that published templates use.
TEMPLATES = {
    "a turn per message": (
        "{{ bos_token }}{% for message in messages %}\n"
        "    {{- '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    "state and loop control": (
        "{%- set ns = namespace(n=0) -%}\n"
        "{%- for message in messages -%}\n"
        "  {%- if message.role == 'system' -%}{%- continue -%}{%- endif -%}\n"
        "  {%- set ns.n = ns.n + 1 -%}\n"
        "{{ ns.n }}: {{ message.content }}\n"
        "{% endfor %}"
    ),
    "json, not escaped for a web page": (
        "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}"
    ),
    "generation marks": (
        "{% for m in messages %}\n{% generation %}{{ m.content }}{% endgeneration %};\n{% endfor %}"
    ),
    "further names": "{{ date_string }} {{ tools | length }} {{ missing is defined }}",
}


@pytest.fixture(autouse=True)
def _jinja(request):
    if "settings" not in request.fixturenames:
        pytest.importorskip("jinja2")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_templates_render_as_in_transformers(name, prompt):
    reference = pytest.importorskip("transformers.utils.chat_template_utils")
    more = {"date_string": "26 Jul 2024", "tools": [{"name": "f"}]}
    theirs, _ = reference.render_jinja_template(
        [CHAT], chat_template=TEMPLATES[name], add_generation_prompt=prompt, **SPECIAL, **more
    )
    template = ChatTemplate(TEMPLATES[name], SPECIAL)
    assert [template.render(CHAT, add_generation_prompt=prompt, **more)] == theirs


def test_a_turn_per_message_by_hand():
    template = ChatTemplate(TEMPLATES["a turn per message"], SPECIAL)
    turns = ["<s><|user|>Hello, Zoë!</s>", "<|assistant|>Hi</s>", "<|assistant|>"]
    assert template.render(CHAT[1:]) == "\n".join(turns)


def test_a_template_has_no_clock_unless_it_is_given_one():
    """A prompt is a function of its messages; a template that asks for a date must be given it."""
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", {})
    with pytest.raises(ValueError, match="chat template: 'strftime_now' is undefined"):
        template.render(CHAT)
    assert template.render(CHAT, now=datetime(2024, 7, 26)) == "26 Jul 2024"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "model/t.jinja: roles must alternate"),
        ("{% for m in messages %}", "model/t.jinja: Unexpected end of template"),
        ("{{ messages[0].content.nothing.deeper }}", "model/t.jinja: .* has no attribute"),
        ("{{ 1 / 0 }}", "model/t.jinja: division by zero"),
    ],
)
def test_what_a_template_refuses_is_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        ChatTemplate(text, {}, "model/t.jinja").render(CHAT)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{% for n in range(999999999) %}{% endfor %}",
        "{{ self.__init__.__globals__.keys() }}",
        "{{ '{0.__class__.__mro__}'.format(1).x }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(text):
    with pytest.raises(ValueError, match="chat template: "):
        ChatTemplate(text, {}).render(CHAT)


@pytest.fixture
def settings(tmp_path):
    """Writes `tokenizer_config.json`."""
    return lambda **fields: (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))


def test_the_template_of_a_folder_with_its_special_tokens(tmp_path, settings):
    settings(
        chat_template="{{ 1 }}", bos_token="<s>", eos_token={"content": "</s>", "lstrip": False}
    )
    found = load_chat_template(tmp_path)
    assert (found.text, found.special_tokens) == ("{{ 1 }}", SPECIAL)
    assert found.origin == str(tmp_path / "tokenizer_config.json")


def test_a_template_in_a_file_of_its_own_comes_first(tmp_path, settings):
    settings(chat_template="{{ 1 }}", bos_token="<s>")
    (tmp_path / "chat_template.jinja").write_text("{{ 2 }}")
    assert load_chat_template(tmp_path).text == "{{ 2 }}"
    assert load_chat_template(tmp_path).special_tokens == {"bos_token": "<s>"}


def test_of_several_templates_the_default_is_taken(tmp_path, settings):
    named = [
        {"name": "tool_use", "template": "{{ 1 }}"},
        {"name": "default", "template": "{{ 2 }}"},
    ]
    settings(chat_template=named)
    assert load_chat_template(tmp_path).text == "{{ 2 }}"
    settings(chat_template=named[:1])
    with pytest.raises(FileNotFoundError, match="no chat template; is this a base model"):
        load_chat_template(tmp_path)


def test_a_base_model_has_no_template(tmp_path, settings):
    with pytest.raises(FileNotFoundError, match="no chat template; is this a base model"):
        load_chat_template(tmp_path)


def test_the_tokens_that_end_an_answer(tmp_path, settings):
    assert stop_ids(tmp_path) == ()
    folder_of(tmp_path, "tied", fields={"eos_token_id": 2})
    assert stop_ids(tmp_path) == (2,)
    edit_generation = tmp_path / "generation_config.json"
    edit_generation.write_text('{"eos_token_id": [128001, 128009]}')
    assert stop_ids(tmp_path) == (128001, 128009)
    edit(edit_generation, eos_token_id=None)
    assert stop_ids(tmp_path) == (2,)
