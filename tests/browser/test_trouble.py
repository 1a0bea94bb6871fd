"""Errors of the server, and servers that want a key."""

import pytest

from tests.support.ingresses import http_server, make_ingress, tokens
from tests.support.page_script import answer
from tests.support.scripted_source import ScriptedSource

pytestmark = pytest.mark.browser
STORES = "JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])"


def test_a_refusal_is_shown_with_what_to_do_and_can_be_tried_again(open_tab, expect):
    answers = iter([answer, answer])

    def script(request):
        return next(answers, lambda _: tokens("<|channel|>final<|message|>At last.<|return|>"))(request)

    with http_server(make_ingress(ScriptedSource(script))) as url:
        tab = open_tab(url).open()
        tab.ask("refuse")
        for _ in range(2):
            expect(tab.error).to_contain_text("The queue is full.")
            expect(tab.error).to_contain_text("Retry in 3 s.")
            expect(tab.page.get_by_role("alert")).to_have_count(1)
            tab.button("Retry").click()
        expect(tab.content).to_have_text("At last.")
        expect(tab.error).to_have_count(0)
        assert tab.questions == ["refuse"]


def test_an_error_in_the_middle_keeps_what_came_and_tells_no_secret(tab, expect):
    tab.ask("break")
    expect(tab.error).to_contain_text("its log tells why under request id")
    expect(tab.content).to_have_text("Half an")
    assert "secret" not in tab.page.content()


def test_a_field_that_is_wrong_is_named(tab, source, expect):
    tab.set(temperature="9")
    tab.ask("17 + 25")
    expect(tab.error).to_contain_text("Correct the temperature in the settings.")
    assert source.requests == []


def test_a_conversation_that_does_not_fit_is_told_so(tab, expect):
    tab.ask("word " * 700)
    expect(tab.error).to_contain_text("Start a new chat")


def test_a_server_that_is_gone_is_told_and_the_question_is_not_lost(tab, expect):
    tab.page.context.set_offline(True)
    tab.ask("17 + 25")
    expect(tab.error).to_contain_text("The server cannot be reached.")
    tab.page.context.set_offline(False)
    tab.button("Retry").click()
    tab.wait_for_end()
    expect(tab.content).to_have_text("It is 42.")


def test_a_page_without_models_tries_again(open_tab, url, expect):
    tab = open_tab(url)
    tab.page.route("**/v1/models", lambda route: route.fulfill(status=502, body="<b>Bad gateway</b>"))
    tab.page.goto(url)
    expect(tab.error).to_contain_text("The server answered 502")
    tab.message.fill("17 + 25")
    expect(tab.button("Send")).to_be_disabled()
    tab.page.unroute("**/v1/models")
    tab.button("Retry").click()
    expect(tab.error).to_have_count(0)
    expect(tab.button("Send")).to_be_enabled()


@pytest.fixture
def closed_url(source):
    with http_server(make_ingress(source, api_keys=["the-key"])) as url:
        yield url


def give_key(tab, key):
    tab.page.get_by_label("API key", exact=True).fill(key)
    tab.page.keyboard.press("Enter")


def test_a_key_is_asked_for_until_it_is_right_and_kept_in_this_tab_alone(open_tab, closed_url, expect):
    tab = open_tab(closed_url)
    tab.page.goto(closed_url)
    dialog = tab.page.get_by_role("dialog", name="This server asks for an API key")
    expect(dialog).to_contain_text("No API key was given")
    give_key(tab, "wrong")
    expect(dialog).to_contain_text("The API key is not valid here.")
    give_key(tab, "the-key")
    expect(dialog).to_be_hidden()
    tab.ask_to_end("17 + 25")
    expect(tab.content).to_have_text("It is 42.")

    session, local, cookie = tab.page.evaluate(f"JSON.parse({STORES})")
    assert session["gptoss_ray.key"] == '"the-key"'
    assert "the-key" not in str(local) + cookie
    assert not any("the-key" in request for request in tab.requests)
    tab.open()
    expect(dialog).to_be_hidden()
    other = open_tab(closed_url)
    other.page.goto(closed_url)
    expect(other.page.get_by_role("dialog")).to_be_visible()


def test_a_key_that_is_not_given_leaves_an_error_that_asks_again(open_tab, closed_url, expect):
    tab = open_tab(closed_url)
    tab.page.goto(closed_url)
    tab.page.get_by_role("dialog").wait_for()
    tab.page.keyboard.press("Escape")
    expect(tab.error).to_contain_text("Enter an API key of this server.")
    tab.button("Retry").click()
    give_key(tab, "the-key")
    tab.page.locator("#model:enabled").wait_for()


def test_a_key_that_is_forgotten_is_asked_for_before_the_next_answer(open_tab, closed_url, source, expect):
    tab = open_tab(closed_url)
    tab.page.goto(closed_url)
    give_key(tab, "the-key")
    tab.page.locator("#model:enabled").wait_for()
    tab.button("Settings").click()
    tab.button("Forget the API key").click()
    tab.page.keyboard.press("Escape")
    assert "the-key" not in tab.page.evaluate(STORES)
    tab.ask("17 + 25")
    give_key(tab, "the-key")
    tab.wait_for_end()
    expect(tab.content).to_have_text("It is 42.")
    assert len(source.requests) == 1
