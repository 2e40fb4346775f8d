"""The key of a judge's server is sent and never shown."""

import logging
import traceback

import pytest

from dsd.vlm.open import LoadError, VLMError
from tests.loopback import Reply, serving
from tests.servers import judge, script

SECRET = "sk-loopback-0123456789abcdef"


def echo(status: int):
    """A rude server: it sends the key back."""
    return lambda body: Reply(f"you sent {body['headers'].get('Authorization')} to me", status)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500, 503])
def test_the_key_is_sent_and_never_shown(status, clock, monkeypatch, caplog):
    monkeypatch.setenv("DSD_VLM_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "dsd.vlm.client")
    with serving(echo(status)) as address:
        vlm = judge(address, clock, retries=1)
        try:
            shown = vlm.ask("?")
        except VLMError as error:
            shown = "".join(traceback.format_exception(error))
    assert "you sent Bearer ***" in shown
    assert SECRET not in shown + caplog.text + repr(vlm) + repr(vlm.client) + str(vars(vlm))


def test_a_refused_key_is_explained_when_opening(clock, monkeypatch):
    refused = Reply(f"bad key {SECRET}", 401)
    with serving(script()[0], models=lambda: refused) as address:
        with pytest.raises(LoadError, match=r"requires a key \(set DSD_VLM_KEY\): 401"):
            judge(address, clock)
        monkeypatch.setenv("MY_KEY", SECRET)
        with pytest.raises(LoadError, match=r"refuses the key in MY_KEY: 401 bad key \*\*\*$") as caught:
            judge(address, clock, key="MY_KEY")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_with_the_key_to_another_server(status, clock, monkeypatch):
    monkeypatch.setenv("DSD_VLM_KEY", SECRET)
    asked, models = [], []
    with serving(lambda body: asked.append(body), models=lambda: asked.append("models")) as other:
        moved = Reply("gone", status, {"Location": f"{other}/models?key={SECRET}"})
        says = rf"has moved to {other}/models\?key=\*\*\*; use its new address: {status} gone$"
        with serving(lambda body: moved, models=lambda: models.pop(0) if models else moved) as address:
            with pytest.raises(LoadError, match=says):
                judge(address, clock)
            models.append(Reply({"data": [{"id": "judge"}]}))
            with pytest.raises(VLMError, match=says):
                judge(address, clock).ask("?")
    assert asked == [] and clock.slept == []


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"{SECRET} ", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_quoting_it(key, clock, monkeypatch):
    monkeypatch.setenv("DSD_VLM_KEY", key)
    with pytest.raises(LoadError, match="DSD_VLM_KEY contains") as caught:
        judge("http://127.0.0.1:9/v1", clock)
    assert key.strip() not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "address",
    [f"http://me:{SECRET}@host/v1", f"https://host/v1?key={SECRET}", f"ftp://me:{SECRET}@host/v1"],
)
def test_an_address_that_holds_a_secret_is_refused_without_quoting_it(address, clock):
    with pytest.raises(LoadError, match="must not contain a password") as caught:
        judge(address, clock)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("address", ["http://", "http://host/v1/chat/completions", "http://[::1/v1"])
def test_an_address_that_is_none_is_refused(address, clock):
    with pytest.raises(LoadError, match="the judge's address"):
        judge(address, clock)
