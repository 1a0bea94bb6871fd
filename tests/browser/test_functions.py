"""Functions: defined in the settings, called by the model, answered by the person."""

import pytest

from tests.support.one_call import prompt_text

pytestmark = pytest.mark.browser
MINE = '{"name": "get_weather", "description": "Of a town.", "parameters": {"type": "object"}}'


def test_a_call_is_shown_with_its_arguments_and_answered(tab, source, expect):
    tab.button("Settings").click()
    tab.button("get_weather").click()
    expect(tab.page.locator("#functions-status")).to_have_text("Offered: get_weather.")
    tab.page.keyboard.press("Escape")
    tab.ask_to_end("weather")
    call = tab.page.locator(".call")
    expect(call).to_contain_text("Calls get_weather")
    expect(call.get_by_role("group", name="Arguments")).to_have_text('{\n  "city": "Paris"\n}')
    assert "type get_weather = (_: {" in prompt_text(source.requests[0])

    result = call.get_by_label("Result of get_weather")
    expect(result).to_have_value('{"city":"Paris","temperature":18}')
    result.fill("It pours.")
    result.press("Enter")
    tab.wait_for_end()
    expect(tab.answers.last.locator("strong")).to_have_text("18 degrees")
    expect(tab.page.locator(".call-outcome").first).to_contain_text("It pours.")
    prompt = prompt_text(source.requests[1])
    assert "It pours." in prompt
    # The model is shown what it thought before it called.
    assert "Look it up." in prompt


def test_the_button_sends_a_result_too(tab, source):
    tab.set(functions=MINE)
    tab.ask_to_end("weather")
    tab.page.get_by_label("Result of get_weather").fill("Sun.")
    tab.button("Send result").click()
    tab.wait_for_end()
    assert "Sun." in prompt_text(source.requests[1])


def test_another_question_goes_on_without_a_result(tab, source, expect):
    tab.set(functions=MINE)
    tab.ask_to_end("weather")
    tab.ask_to_end("17 + 25")
    expect(tab.page.locator(".call-outcome").first).to_contain_text("No result was given.")
    assert "No result was given." in prompt_text(source.requests[1])


def test_a_function_that_cannot_be_read_is_told_where_it_is_written(tab, source, expect):
    tab.button("Settings").click()
    area = tab.page.locator("#settings-functions")
    area.fill('[{"name": ')
    expect(tab.page.locator("#functions-status")).to_contain_text("Not understood:")
    expect(area).to_have_attribute("aria-invalid", "true")
    tab.page.keyboard.press("Escape")
    tab.ask("17 + 25")
    expect(tab.error).to_contain_text("Correct the functions in the settings")
    assert source.requests == []
    tab.set(functions="")
    tab.button("Retry").click()
    tab.wait_for_end()
    expect(tab.content).to_have_text("It is 42.")


def test_what_the_server_has_against_a_function_is_told(tab, expect):
    tab.set(functions='{"name": "no spaces allowed"}')
    tab.ask("17 + 25")
    expect(tab.error).to_contain_text("Correct the functions in the settings.")


def test_functions_and_settings_outlive_a_reload_and_are_reset(tab, expect):
    tab.set(functions=MINE, instructions="Rhyme.")
    tab.open()
    tab.button("Settings").click()
    expect(tab.page.locator("#settings-instructions")).to_have_value("Rhyme.")
    expect(tab.page.locator("#settings-functions")).to_have_value(MINE)
    tab.button("Reset settings").click()
    expect(tab.page.locator("#settings-instructions")).to_have_value("")
    expect(tab.page.locator("#functions-status")).to_have_text("None offered.")
