"""Asking, reading, stopping, asking again."""

import time

import pytest

from tests.support.ingresses import MODEL, http_server, make_ingress
from tests.support.one_call import prompt_text

pytestmark = pytest.mark.browser


def wait_until_closed(source, num_requests=1):
    deadline_s = time.monotonic() + 30
    while source.open_ids or len(source.closed_ids) < num_requests:
        assert time.monotonic() < deadline_s, "the server still works on what nobody waits for"
        time.sleep(0.01)


def test_an_answer_is_shown_as_it_comes(tab, source, expect):
    tab.ask("silent")
    expect(tab.content).to_have_text("Count")
    assert len(source.open_ids) == 1
    expect(tab.answers.last).to_have_attribute("aria-busy", "true")
    expect(tab.button("Stop")).to_be_visible()
    tab.button("Stop").click()


def test_text_grows_while_the_server_still_writes(tab, source, expect):
    tab.ask("endless")
    for words in ("Count word word", "word word word word word word"):
        expect(tab.content).to_contain_text(words)
        assert len(source.open_ids) == 1
    tab.page.keyboard.press("Escape")


@pytest.mark.parametrize("key", [True, False])
def test_stopping_ends_the_request_in_the_server_and_keeps_what_came(tab, source, expect, key):
    tab.ask("silent")
    expect(tab.content).to_have_text("Count")
    tab.page.keyboard.press("Escape") if key else tab.button("Stop").click()
    wait_until_closed(source)
    expect(tab.answers.last).to_contain_text("Stopped.")
    expect(tab.content).to_have_text("Count")
    tab.ask_to_end("17 + 25")
    expect(tab.content).to_have_text("It is 42.")
    assert "Count<|end|>" in prompt_text(source.requests[1])


def test_reasoning_is_folded_and_opens(tab, expect):
    tab.ask_to_end("17 + 25")
    reasoning = tab.answers.last.locator(".reasoning-text")
    expect(reasoning).to_be_hidden()
    tab.page.get_by_text("Thought for").click()
    expect(reasoning).to_have_text("17 and 25.")
    expect(tab.content).to_have_text("It is 42.")


def test_reasoning_is_open_while_it_comes_where_that_is_wished(tab, expect):
    tab.button("Settings").click()
    tab.page.get_by_label("Show reasoning while the model thinks").check()
    tab.page.keyboard.press("Escape")
    tab.ask("think")
    expect(tab.answers.last.locator(".reasoning-text")).to_have_text("Hmm")
    expect(tab.answers.last.locator(".reasoning-text")).to_be_visible()
    tab.button("Stop").click()
    expect(tab.answers.last.locator(".reasoning-text")).to_be_hidden()


def test_figures_stand_below_an_answer(tab, expect):
    tab.ask_to_end("17 + 25")
    figures = tab.answers.last.locator(".figures")
    expect(figures).to_contain_text("first token")
    expect(figures).to_contain_text("(3 cached)")
    expect(figures).to_contain_text("reasoning)")


def test_settings_reach_the_server(tab, source):
    tab.set(instructions="Rhyme.", temperature="0.5", maxTokens="40", seed="7")
    tab.page.get_by_role("radio", name="High").check()
    tab.ask_to_end("17 + 25")
    (request,) = source.requests
    assert (request.params.temperature, request.params.max_tokens, request.params.seed) == (0.5, 40, 7)
    prompt = prompt_text(request)
    assert "Reasoning: high" in prompt
    assert "Rhyme." in prompt


def test_the_models_of_the_server_are_offered(tab):
    assert tab.page.locator("#model option").all_inner_texts() == [MODEL]


def test_an_answer_is_made_anew_from_the_same_question(tab, source, expect):
    tab.ask_to_end("first")
    tab.ask_to_end("second")
    tab.button("Regenerate answer").first.click()
    tab.wait_for_end()
    expect(tab.answers).to_have_count(1)
    assert tab.questions == ["first"]
    assert prompt_text(source.requests[2]) == prompt_text(source.requests[0])


def test_a_question_is_replaced_with_all_that_came_after_it(tab, source, expect):
    tab.ask_to_end("first")
    tab.ask_to_end("second")
    tab.page.locator(".question").first.hover()
    tab.button("Edit question").first.click()
    area = tab.page.get_by_role("textbox", name="Edit question")
    expect(area).to_be_focused()
    expect(area).to_have_value("first")
    area.fill("third")
    area.press("Enter")
    tab.wait_for_end()
    assert tab.questions == ["third"]
    expect(tab.answers).to_have_count(1)
    assert "first" not in prompt_text(source.requests[2])


def test_editing_can_be_left(tab, expect):
    tab.ask_to_end("first")
    tab.page.locator(".question").hover()
    tab.button("Edit question").click()
    tab.page.keyboard.type(" more")
    tab.page.keyboard.press("Escape")
    assert tab.questions == ["first"]
    expect(tab.button("Edit question")).to_be_focused()


def test_an_answer_is_copied_as_it_was_written(tab, expect):
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.ask_to_end("markdown")
    tab.button("Copy answer").click()
    expect(tab.page.locator("#announcements")).to_contain_text("Copied.")
    assert "| TCP | yes |" in tab.page.evaluate("navigator.clipboard.readText()")


def test_markdown_is_shown_as_what_it_means(tab, expect):
    tab.ask_to_end("markdown")
    expect(tab.content.locator("h3")).to_have_text("Title")
    expect(tab.content.locator("strong")).to_have_text("bold")
    expect(tab.content.locator("ol > li > ul > li")).to_have_text("inner")
    expect(tab.content.locator("pre code")).to_contain_text("return argument_one <= argument_two")
    expect(tab.content.locator("tbody td").nth(2)).to_have_css("text-align", "end")
    link = tab.content.get_by_role("link")
    expect(link).to_have_attribute("href", "https://example.org/a")
    expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")


def test_a_new_chat_forgets_the_old_one(tab, source, expect):
    tab.ask("silent")
    expect(tab.content).to_have_text("Count")
    tab.button("New chat").click()
    wait_until_closed(source)
    expect(tab.answers).to_have_count(0)
    expect(tab.page.get_by_role("heading", name=f"What would you ask {MODEL}?")).to_be_visible()
    expect(tab.message).to_be_focused()
    tab.ask_to_end("17 + 25")
    assert "silent" not in prompt_text(source.requests[1])


def test_a_conversation_outlives_a_reload_of_its_tab_and_no_more(tab, url, open_tab, source, expect):
    tab.ask_to_end("17 + 25")
    tab.ask("silent")
    expect(tab.content).to_have_text("Count")
    tab.open()
    wait_until_closed(source, 2)
    assert tab.questions == ["17 + 25", "silent"]
    expect(tab.answers.first.locator(".markdown")).to_have_text("It is 42.")
    expect(tab.answers.last).to_contain_text("Stopped.")
    expect(open_tab(url).open().answers).to_have_count(0)


def test_an_example_asks_its_question(tab, source, expect):
    tab.page.get_by_role("button", name="Compare TCP").click()
    tab.wait_for_end()
    assert tab.questions == ["Compare TCP, UDP and QUIC in a table."]
    expect(tab.page.locator("#welcome")).to_be_hidden()


def test_the_page_works_below_a_route_prefix(open_tab, source, expect):
    with http_server(make_ingress(source), prefix="/some/where") as url:
        tab = open_tab(url).open()
        tab.ask_to_end("17 + 25")
        expect(tab.content).to_have_text("It is 42.")
        assert all(request.startswith(f"{url}/") for request in tab.requests)


def test_the_end_stays_in_view_unless_one_scrolls_away(tab, expect):
    tab.page.set_viewport_size({"width": 700, "height": 420})
    tab.ask_to_end("markdown")
    to_end = tab.button("Latest")
    expect(tab.content.get_by_text("Quoted.")).to_be_in_viewport()
    expect(to_end).to_be_hidden()
    tab.page.mouse.wheel(0, -400)
    expect(to_end).to_be_visible()
    top = tab.page.evaluate("document.documentElement.scrollTop")
    to_end.click()
    expect(tab.content.get_by_text("Quoted.")).to_be_in_viewport()
    assert tab.page.evaluate("document.documentElement.scrollTop") > top
