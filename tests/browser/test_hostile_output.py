"""What a model writes is shown, and never runs, loads or leads astray."""

import pytest

from tests.support.page_script import HOSTILE

pytestmark = pytest.mark.browser


def assert_harmless(tab):
    assert tab.page.evaluate("window.pwned") is None
    shown = tab.page.locator("#transcript")
    assert shown.locator("script, iframe, img, object, embed, form, style, link, base, meta").count() == 0
    for link in shown.get_by_role("link").all():
        assert link.get_attribute("href").startswith(("https://", "http://", "mailto:"))
    attributes = "e => [...e.querySelectorAll('*')].flatMap(one => one.getAttributeNames())"
    assert not any(name.startswith("on") for name in shown.evaluate(attributes))


def test_markup_in_an_answer_is_text(tab, expect):
    tab.ask_to_end("hostile")
    expect(tab.content).to_contain_text("<script>window.pwned = 1; alert(1)</script>")
    expect(tab.content).to_contain_text('<img src=x onerror="window.pwned = 2">')
    expect(tab.content.locator(".code-head")).to_contain_text("window.pwned")
    expect(tab.content.locator("pre").first).to_contain_text("window.pwned = 8")
    for link in tab.content.get_by_role("link").all():
        link.hover()
    assert_harmless(tab)


def test_markup_in_reasoning_is_text(tab, expect):
    tab.ask_to_end("hostile")
    tab.page.get_by_text("Thought for").click()
    expect(tab.page.locator(".reasoning-text")).to_contain_text("<script>window.pwned = 9</script>")
    assert_harmless(tab)


def test_markup_in_a_call_and_its_result_is_text(tab, expect):
    tab.set(functions='{"name": "get_weather"}')
    tab.ask_to_end("nasty")
    expect(tab.page.locator(".call pre").first).to_contain_text("<img src=x onerror=alert(5)>")
    tab.page.get_by_label("Result of get_weather").fill("<img src=x onerror=alert(6)>")
    tab.button("Send result").click()
    tab.wait_for_end()
    expect(tab.page.locator(".call-outcome").first).to_contain_text("<img src=x onerror=alert(6)>")
    assert_harmless(tab)


def test_markup_in_a_question_is_text(tab, source):
    tab.ask_to_end(HOSTILE)
    # What a text box does to white space is all that is lost.
    assert "".join(tab.questions[0].split()) == "".join(HOSTILE.split())
    tab.open()
    assert_harmless(tab)


def test_even_markup_that_got_into_the_page_could_do_nothing(open_tab, url):
    tab = open_tab(url).open()
    page = tab.page
    wrote = "(() => { try { document.body.innerHTML += '<p>'; return true } catch { return false } })()"
    assert page.evaluate(wrote) is False
    added = """
        (() => { const s = document.createElement('script');
          try { s.textContent = 'window.pwned = 1' } catch { return 'refused' }
          document.body.append(s); return String(window.pwned) })()
    """
    assert page.evaluate(added) in ("refused", "undefined")
    elsewhere = "fetch('http://127.0.0.1:1/x').then(() => 'sent', () => 'refused')"
    assert page.evaluate(elsewhere) == "refused"
    refusals = [fault for fault in tab.faults if "Security Policy" in fault or "TrustedHTML" in fault]
    assert any("connect-src" in fault for fault in refusals)
    tab.faults.clear()
    tab.requests.clear()
