"""For everyone: by keyboard, by voice, in any light, on any width."""

import pytest

from tests.support.ingresses import http_server, make_ingress
from tests.support.scripted_source import ScriptedSource

pytestmark = pytest.mark.browser
FUNCTION = '{"name": "get_weather", "description": "Of a town."}'
LIGHTS = pytest.mark.parametrize("scheme", ["light", "dark"])


def press(tab, *keys):
    for key in keys:
        tab.page.keyboard.press(key)


def start_at_the_top(tab):
    # The next Tab goes on from where one has clicked: here beside all that there is.
    tab.page.mouse.click(5, 400)


@LIGHTS
def test_axe_finds_nothing_against_wcag_in_an_empty_and_in_a_full_page(open_tab, url, axe, scheme):
    tab = open_tab(url, color_scheme=scheme).open()
    assert tab.violations(axe) == []
    tab.set(functions=FUNCTION)
    tab.ask_to_end("weather")
    assert tab.violations(axe) == []
    tab.page.get_by_label("Result of get_weather").fill("Sun.")
    tab.button("Send result").click()
    tab.wait_for_end()
    tab.button("New chat").click()
    tab.ask_to_end("markdown")
    tab.page.get_by_text("Thought for").click()
    assert tab.violations(axe) == []
    tab.button("New chat").click()
    tab.ask("refuse")
    tab.error.wait_for()
    assert tab.violations(axe) == []
    tab.ask("think")
    tab.page.get_by_text("Thinking…").wait_for()
    assert tab.violations(axe) == []
    press(tab, "Escape")


@LIGHTS
def test_axe_finds_nothing_against_wcag_in_the_dialogs(open_tab, axe, source, scheme):
    with http_server(make_ingress(source, api_keys=["key"])) as url:
        tab = open_tab(url, color_scheme=scheme, viewport={"width": 360, "height": 700})
        tab.page.goto(url)
        tab.page.get_by_label("API key", exact=True).fill("key")
        assert tab.violations(axe) == []
        press(tab, "Enter")
        tab.page.locator("#model:enabled").wait_for()
        tab.button("Settings").click()
        tab.page.locator("#settings-functions").fill("{")
        assert tab.violations(axe) == []


def test_all_of_a_conversation_goes_by_keyboard(tab, source, expect):
    start_at_the_top(tab)
    press(tab, "Tab")
    assert tab.focused() == "Skip to the message box"
    expect(tab.page.get_by_text("Skip to the message box")).to_be_in_viewport()
    press(tab, "Enter")
    expect(tab.message).to_be_focused()

    tab.page.keyboard.type("one")
    press(tab, "Shift+Enter")
    tab.page.keyboard.type("two")
    expect(tab.message).to_have_value("one\ntwo")
    press(tab, "Enter")
    tab.wait_for_end()
    assert tab.questions == ["one\ntwo"]
    expect(tab.message).to_be_focused()

    press(tab, "Shift+Tab")
    assert tab.focused() == "Regenerate answer"
    press(tab, "Shift+Tab", "Shift+Tab")
    assert tab.focused().startswith("Thought for")
    press(tab, "Enter")
    expect(tab.page.locator(".reasoning-text")).to_be_visible()
    press(tab, "Shift+Tab")
    assert tab.focused() == "Edit question"
    press(tab, "Enter")
    tab.page.keyboard.type("!")
    press(tab, "Enter")
    tab.wait_for_end()
    assert tab.questions == ["one\ntwo!"]
    expect(tab.message).to_be_focused()


def test_settings_and_a_call_go_by_keyboard(tab, source, expect):
    start_at_the_top(tab)
    press(tab, "Tab", "Tab")
    assert tab.focused() == "model"
    press(tab, "Tab")
    assert tab.focused() == "to-dashboard"
    press(tab, "Tab", "Tab")
    # There is nothing yet that a new chat could end.
    assert tab.focused() == "Settings"
    press(tab, "Enter")
    expect(tab.page.get_by_role("dialog", name="Settings")).to_be_visible()
    for _ in range(12):
        press(tab, "Tab")
        if tab.focused() == "get_weather":
            break
    press(tab, "Enter", "Escape")
    expect(tab.page.get_by_role("dialog")).to_have_count(0)
    assert tab.focused() == "Settings"

    tab.message.focus()
    tab.page.keyboard.type("weather")
    press(tab, "Enter")
    expect(tab.page.get_by_label("Result of get_weather")).to_be_focused()
    press(tab, "Enter")
    expect(tab.answers.last.locator("strong")).to_have_text("18 degrees")
    expect(tab.message).to_be_focused()


def test_the_focus_is_never_lost_when_a_button_goes(tab, expect):
    tab.ask("silent")
    expect(tab.content).to_have_text("Count")
    tab.button("Stop").focus()
    press(tab, "Enter")
    expect(tab.message).to_be_focused()
    tab.ask("refuse")
    tab.button("Retry").focus()
    press(tab, "Enter")
    expect(tab.message).to_be_focused()


def test_what_has_the_focus_can_be_seen(tab):
    press(tab, "Tab")
    label = "document.activeElement.nextElementSibling ?? document.activeElement"
    outline = tab.page.evaluate(f"getComputedStyle({label}).outline")
    assert "solid" in outline
    assert "2px" in outline


def test_an_answer_is_said_in_sentences_and_its_end_is_told(tab, expect):
    tab.ask_to_end("markdown")
    expect(tab.page.locator("#announcements")).to_contain_text("The answer is complete.")
    said = tab.announced()
    assert said[0] == "Waiting for the answer."
    assert said[-1] == "The answer is complete."
    assert "Title Some bold, emphasis, code and a link." in " ".join(said)
    # Over a hundred tokens came.
    assert len(said) < 8


def test_regions_and_turns_have_names(tab, expect):
    tab.ask_to_end("17 + 25")
    for role, name in [("banner", None), ("main", None), ("form", "Message"), ("list", "Conversation")]:
        options = {"name": name} if name else {}
        expect(tab.page.get_by_role(role, **options)).to_have_count(1)
    headings = [heading.inner_text() for heading in tab.page.get_by_role("heading", level=2).all()]
    assert headings == ["You", "org/tiny"]


def test_light_and_dark_follow_the_system_and_the_switch(open_tab, url, expect):
    tab = open_tab(url, color_scheme="dark").open()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = tab.page.evaluate(ground)
    switch = tab.button("Dark theme")
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "false")
    light = tab.page.evaluate(ground)
    assert dark != light
    tab.open()
    assert tab.page.evaluate(ground) == light
    switch.click()
    assert tab.page.evaluate(ground) == dark
    # Back at the system's own, the page follows it.
    tab.page.emulate_media(color_scheme="light")
    assert tab.page.evaluate(ground) == light


@pytest.mark.parametrize("width", [360, 320, 768])
def test_nothing_is_wider_than_the_page(open_tab, url, width):
    tab = open_tab(url, viewport={"width": width, "height": 640}).open()
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert tab.page.evaluate(wide) <= 0
    tab.set(functions=FUNCTION)
    tab.ask_to_end("markdown " + "x" * 90)
    assert tab.page.evaluate(wide) <= 0
    for button in ("Send", "Functions 1", "Settings", "New chat"):
        box = tab.button(button).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    tab.button("Settings").click()
    assert tab.page.locator("#settings").evaluate("e => e.scrollWidth - e.clientWidth") <= 0


def test_nothing_moves_for_those_who_wish_so(open_tab, url):
    tab = open_tab(url, reduced_motion="reduce").open()
    tab.ask("think")
    tab.page.get_by_text("Thinking…").wait_for()
    assert tab.page.evaluate("document.getAnimations().length") == 0
    press(tab, "Escape")
    tab.button("Settings").click()
    assert tab.page.evaluate("document.getAnimations().length") == 0


def test_enter_that_ends_a_word_of_an_input_method_does_not_send(tab, source):
    tab.message.fill("にほん")
    key = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true})"
    tab.message.evaluate(f"e => e.dispatchEvent({key})")
    assert tab.questions == []
    assert source.requests == []


def test_a_person_can_write_the_next_question_while_an_answer_comes(tab, source: ScriptedSource, expect):
    tab.ask("silent")
    expect(tab.content).to_have_text("Count")
    tab.message.fill("next")
    press(tab, "Enter")
    expect(tab.message).to_have_value("next")
    assert len(source.requests) == 1
    press(tab, "Escape")
    expect(tab.answers.last).to_contain_text("Stopped.")
    press(tab, "Enter")
    tab.wait_for_end()
    assert tab.questions == ["silent", "next"]
