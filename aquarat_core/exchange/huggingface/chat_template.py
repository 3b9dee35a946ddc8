"""The chat template of a release: `text.chat.render` and `render_prompt` in Jinja.

It gives the same ids and, by `{% generation %}`, the same mask of learned tokens. There is one case in which it cannot:
a message that spells a special token. Our tokenizer encodes that as text, but Hugging Face's would find the token in
it, so the template refuses the message.
"""

from __future__ import annotations

import json

from aquarat_core.text.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerError

_TEMPLATE = r"""
{%- set special_tokens = NAMES -%}
{%- macro checked(text) -%}
    {%- if text is not string -%}
        {{- raise_exception("the content of a message must be a text or a list of parts with texts") -}}
    {%- endif -%}
    {%- for name in special_tokens if name in text -%}
        {{- raise_exception("a message contains " ~ name ~ ", which would become a special token") -}}
    {%- endfor -%}
    {{- text -}}
{%- endmacro -%}
{%- macro joined(parts) -%}
    {%- for part in parts -%}
        {%- if part.type != "text" -%}
            {{- raise_exception("a message has a part of type " ~ part.type ~ ": only text is understood there") -}}
        {%- endif -%}
        {{- part.text -}}
    {%- endfor -%}
{%- endmacro -%}
{%- macro plain(message) -%}
    {%- if message.parts -%}
        {{- raise_exception("a system or user message has parts: only an assistant calls tools") -}}
    {%- endif -%}
    {%- if message.content is string -%}
        {{- checked(message.content) -}}
    {%- elif message.content is defined and message.content is sequence and message.content is not mapping -%}
        {{- checked(joined(message.content)) -}}
    {%- else -%}
        {{- checked(none) -}}
    {%- endif -%}
{%- endmacro -%}

{%- if tools -%}
    {{- raise_exception("this model takes no descriptions of tools: it calls a calculator in its own text") -}}
{%- endif -%}
{%- set state = namespace(system="", turns=0) -%}
{{- "<|bos|>" -}}
{%- for message in messages -%}
    {%- if message.role == "system" and loop.first and messages | length > 1 -%}
        {%- set state.system = plain(message) ~ "\n\n" -%}
    {%- elif message.role != ["user", "assistant"][state.turns % 2] -%}
        {{- raise_exception("a conversation is user and assistant in turn, after at most one system message") -}}
    {%- elif message.role == "user" -%}
        {{- "<|user_start|>" ~ state.system ~ plain(message) ~ "<|user_end|>" -}}
        {%- set state.system = "" -%}
        {%- set state.turns = state.turns + 1 -%}
    {%- else -%}
        {%- set state.turns = state.turns + 1 -%}
        {%- if message.tool_calls -%}
            {{- raise_exception("tool_calls are not understood: write calls as parts of the message") -}}
        {%- endif -%}
        {%- set parts = message.parts or message.content -%}
        {%- if parts is string -%}
            {%- set parts = [{"type": "text", "text": parts}] -%}
        {%- elif parts is undefined or parts is not sequence or parts is mapping -%}
            {{- checked(none) -}}
        {%- elif not message.parts and parts | rejectattr("type", "equalto", "text") | list | length == 0 -%}
            {%- set parts = [{"type": "text", "text": joined(parts)}] -%}
        {%- endif -%}
        {{- "<|assistant_start|>" -}}
        {%- for part in parts -%}
            {%- if part.type == "text" and loop.previtem is defined and loop.previtem.type == "text" -%}
                {{- raise_exception("a message has two parts of text in succession: make them one") -}}
            {%- elif part.type == "text" -%}
                {%- generation -%}{{- checked(part.text) -}}{%- endgeneration -%}
            {%- elif part.type in ["call", "python"] -%}
                {%- generation -%}
                    {{- "<|python_start|>" ~ checked(part.text) ~ "<|python_end|>" -}}
                {%- endgeneration -%}
            {%- elif part.type in ["output", "python_output"] -%}
                {{- "<|output_start|>" ~ checked(part.text) ~ "<|output_end|>" -}}
            {%- else -%}
                {{- raise_exception("a message has a part of type " ~ part.type ~ ", not text, call or output") -}}
            {%- endif -%}
        {%- endfor -%}
        {%- generation -%}{{- "<|assistant_end|>" -}}{%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if state.turns % 2 == 0 -%}
        {{- raise_exception("the conversation does not end with the user: there is nothing to reply to") -}}
    {%- endif -%}
    {{- "<|assistant_start|>" -}}
{%- endif -%}
"""


def chat_template(tokenizer: Tokenizer) -> str:
    """The template for this tokenizer. Raises `TokenizerError` if it lacks special tokens of the chat format."""
    if missing := [name for name in SPECIAL_TOKENS if name not in tokenizer.special_ids]:
        raise TokenizerError(
            f"the tokenizer lacks {', '.join(missing)}, so there is no chat template for it: release a model whose "
            "tokenizer has the special tokens of conversations"
        )
    return _TEMPLATE.strip().replace("NAMES", json.dumps(list(tokenizer.special_tokens), ensure_ascii=False), 1)
