"""What the document can't say in JSON Schema, mended in requests before they are sent; what is wrong in them stays wrong."""

from datetime import datetime, timedelta, timezone
from secrets import token_hex

import schemathesis


def is_time(value):
    try:
        return datetime.fromisoformat(value.upper().replace("Z", "+00:00")).tzinfo is not None
    except (AttributeError, ValueError):
        return False


def is_whole(value):
    # To JSON Schema 7.0 is an integer, too.
    return isinstance(value, int) or isinstance(value, float) and value.is_integer()


def is_plain_name(value):
    return isinstance(value, str) and value.isprintable() and value == value.strip() and 1 <= len(value) <= 100


def as_of(at):
    # A time lies in the past; a position that the log has not reached is waited for, and answered 503 as documented.
    if is_time(at):
        return datetime.now(timezone.utc).isoformat()
    if at.isdecimal() and at.isascii():
        return str(int(at) % 5)
    return at


def contexts(body):
    # Of a question, or of several.
    items = body.get("evaluations")
    for question in [body] + (items if isinstance(items, list) else []):
        if isinstance(question, dict) and isinstance(question.get("context"), dict):
            yield question["context"]


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.query, dict) and isinstance(case.query.get("at"), str):
        case.query["at"] = as_of(case.query["at"])
    if not isinstance(case.body, dict):
        return
    # An expiry lies in the future, but not too far.
    if is_time(case.body.get("expiresAt")):
        case.body["expiresAt"] = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
    # The past is asked by a position or a time that has been, not by both.
    for context in contexts(case.body):
        # The empty text is sent for a time, too.
        if context.get("atTime") == "" or (is_whole(context.get("atPosition")) and is_time(context.get("atTime"))):
            del context["atTime"]
        elif is_time(context.get("atTime")):
            context["atTime"] = datetime.now(timezone.utc).isoformat()
    # A name is used once: those of the examples would be refused from the second time on.
    if is_plain_name(case.body.get("name")):
        case.body["name"] += " " + token_hex(4)
