"""Chat templates: the tokenizer's own program that writes a conversation as one prompt.

A template is a Jinja program from the model's publisher. It runs in Jinja's sandbox, sees plain
data only, and no clock, so that a prompt is a function of its messages.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jlab.hub.fields import read_json
from jlab.hub.source import local_folder

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token")


@dataclass(frozen=True)
class ChatTemplate:
    """Renders messages as the prompt that the model was trained on.

    Its special tokens are spelled out in the text; a tokenizer must read them as such, and add
    none of its own.
    """

    text: str
    special_tokens: Mapping[str, str]  # "bos_token" and so on, which the template may name
    origin: str = "chat template"  # begins every message

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        now: datetime | None = None,
        **variables: Any,
    ) -> str:
        """The prompt.

        Args:
          messages: `{"role": "user", "content": ...}` and so on, in order.
          add_generation_prompt: end with the header of the model's answer.
          now: time for templates that ask for it by `strftime_now`; None: there is no such name.
          variables: further names that the template reads, such as `date_string` or `tools`.

        Raises:
          ValueError: the template refuses the messages or is damaged.
          ModuleNotFoundError: jinja2 is not installed.
        """
        environment = _environment()
        if now is not None:
            environment.globals["strftime_now"] = now.strftime
        # Plain data through JSON: richer objects have methods that the sandbox does not know.
        data = json.loads(json.dumps({"messages": list(messages), **variables}))
        try:
            return environment.from_string(self.text).render(
                **self.special_tokens, **data, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # a template can raise anything that its operations raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{self.origin}: {reason}") from error


def load_chat_template(source: str | Path, revision: str | None = None) -> ChatTemplate:
    """The chat template of a folder or hub id.

    Raises:
      FileNotFoundError: it has none; base models do not.
    """
    folder = local_folder(source, revision)
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    special = {name: _token(settings.get(name)) for name in _SPECIAL_TOKENS}
    template = settings.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        path = folder / "chat_template.jinja"
        template = path.read_text()
    elif isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if not isinstance(template, str):
        raise FileNotFoundError(f"{folder}: no chat template; is this a base model?")
    known = {name: token for name, token in special.items() if token is not None}
    return ChatTemplate(template, known, str(path))


def stop_ids(source: str | Path, revision: str | None = None) -> tuple[int, ...]:
    """Ids of the tokens that end an answer; chat models often have several."""
    folder = local_folder(source, revision)
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ids = read_json(folder / name).get("eos_token_id")
            ids = [ids] if isinstance(ids, int) else ids
            if ids:
                return tuple(ids)
    return ()


def _token(value: object) -> str | None:
    """A token is written as its text, or as an object that holds it."""
    return value.get("content") if isinstance(value, dict) else value


def _environment() -> Any:
    """Jinja as chat templates expect it. Source: `transformers`, utils/chat_template_utils.py."""
    try:
        from jinja2 import TemplateError, ext, nodes
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'chat templates need jinja2: pip install "jlab-research[chat]"'
        ) from error

    class Generation(ext.Extension):
        """`{% generation %}` marks the model's own words, for training; here it changes nothing."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str):
        raise TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})  # jinja2's escapes HTML

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment
