"""The pages: a fixed table of files, open to all, that load nothing from elsewhere."""

import re
from pathlib import Path, PurePosixPath

import httpx
import pytest
import tomllib

from gptoss_ray.config import ServingConfig
from gptoss_ray.serving import pages
from gptoss_ray.serving.http_app import build_fastapi_app
from gptoss_ray.serving.pages import CONTENT_TYPES, FOLDER, Pages
from tests.support.ingresses import http_client, http_server, make_ingress
from tests.support.served_app import ROOT

FILES = sorted(FOLDER.iterdir())
MODULES = [path for path in FILES if path.suffix == ".mjs"]
PATHS = sorted(Pages.load().paths)
INDEX = (FOLDER / "index.html").read_text(encoding="utf-8")
DOCUMENTS = {name: (FOLDER / name).read_text(encoding="utf-8") for name in pages.DOCUMENTS}
KEY = {"authorization": "Bearer key"}


def keyed(**options):
    return make_ingress([], api_keys=["key"], **options)


async def test_the_page_opens_without_a_key_and_what_it_asks_for_does_not():
    async with http_client(keyed()) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert page.text == INDEX
        assert (await client.get("/v1/models")).status_code == 401


@pytest.mark.parametrize("path", PATHS)
async def test_every_file_comes_as_what_it_is_with_strict_headers(path):
    async with http_client(keyed()) as client:
        response = await client.get(path)
    assert response.status_code == 200
    names = {document_path: name for name, document_path in pages.DOCUMENTS.items()}
    name = names.get(path) or PurePosixPath(path).name
    assert response.content == (FOLDER / name).read_bytes()
    headers = response.headers
    assert headers["content-type"] == CONTENT_TYPES[Path(name).suffix]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"
    policy = dict(directive.split(" ", 1) for directive in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_that_the_browser_has_is_not_sent_again(path):
    async with http_client(keyed()) as client:
        etag = (await client.get(path)).headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            same = await client.get(path, headers={"if-none-match": known})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
        changed = await client.get(path, headers={"if-none-match": '"other"'})
    assert changed.status_code == 200
    assert changed.content


def test_head_tells_the_size_alone():
    with http_server(keyed()) as url:
        response = httpx.head(url)
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(INDEX.encode()))
    assert not response.content


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page",
        "/page/index.html",
        "/page/../../config.py",
        "/page/..%2f..%2fconfig.py",
        "/page/%2e%2e/pages.py",
        "/page//main.mjs",
        "/page/main.mjs/",
        "/PAGE/main.mjs",
        "//",
        "/index.html",
    ],
)
async def test_nothing_but_the_table_is_open_or_exists(path):
    async with http_client(keyed()) as client:
        url = httpx.URL("http://testserver").copy_with(raw_path=path.encode())
        assert (await client.get(url)).status_code == 401
        assert (await client.get(url, headers=KEY)).status_code == 404


async def test_a_page_that_is_read_is_read_once(tmp_path):
    (tmp_path / "index.html").write_text("one")
    (route,) = Pages.load(tmp_path).routes
    (tmp_path / "index.html").unlink()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=route.app), base_url="http://t") as client:
        response = await client.get("/")
    assert response.text == "one"


async def test_the_page_takes_no_other_method():
    async with http_client(keyed()) as client:
        refused = await client.post("/")
    assert refused.status_code == 405
    assert refused.json()["error"]["code"] == "method_not_allowed"


async def test_a_page_that_is_switched_off_is_not_there():
    assert ServingConfig.model_validate({"models": [{"name": "a", "checkpoint": "demo"}]}).page
    async with http_client(keyed(page=False)) as client:
        for path in PATHS:
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers=KEY)).status_code == 404


def test_what_openapi_leaves_out_is_the_page():
    app = build_fastapi_app(keyed())
    assert {route.path for route in app.routes if not route.include_in_schema} == set(PATHS)


async def test_below_a_prefix_the_same_paths_are_open():
    transport = httpx.ASGITransport(app=build_fastapi_app(keyed()), root_path="/gpt")
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        assert (await client.get("/gpt/")).text == INDEX
        assert (await client.get("/gpt/page/main.mjs")).status_code == 200
        assert (await client.get("/gpt/live")).status_code == 200
        assert (await client.get("/gpt/v1/models")).status_code == 401
        assert (await client.get("/gpt/v1/models", headers=KEY)).status_code == 200


def test_the_package_takes_the_files_along():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["gptoss_ray"]
    assert str((FOLDER / "*").relative_to(ROOT / "gptoss_ray")) in patterns
    assert all(path.is_file() for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_another_host(path):
    text = path.read_text(encoding="utf-8")
    # Names of XML are no addresses that anything is loaded from.
    addresses = set(re.findall(r"\bhttps?://[\w.]+[\w/.]*", text)) - {"http://www.w3.org/2000/svg"}
    assert not addresses
    assert not re.search(r"""(?:src|href)=["']//|url\(|@import|@font-face""", text)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_text_becomes_markup_or_code(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(
        r"(inner|outer|set|Adjacent)HTML|document\.write|\beval\b|\bFunction\(|srcdoc|DOMParser|\bimport\(",
        text,
    )


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_has_no_script_and_no_style_of_its_own(document):
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", document)
    assert all(re.search(r'\bsrc="page/', tag) for tag in re.findall(r"<script[^>]*>", document))


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_loads_all_that_its_modules_need_and_nothing_else(document):
    scripts = set(re.findall(r'<script[^>]+src="page/([^"]+)"', document))
    loaded = set(re.findall(r'(?:href|src)="page/([^"]+)"', document))
    needed = set()
    while fresh := {name for name in scripts if name.endswith(".mjs")} - needed:
        needed |= fresh
        scripts |= {name for path in fresh for name in imports(FOLDER / path)}
    assert {name for name in loaded if name.endswith(".mjs")} == needed
    assert all((FOLDER / name).is_file() for name in loaded)
    addresses = set(re.findall(r'(?:href|src)="([^"#]+)"', document))
    assert {address for address in addresses if not address.startswith("page/")} <= {"./", "dashboard"}


def test_every_file_is_loaded_by_some_document():
    loaded = {
        name
        for document in DOCUMENTS.values()
        for name in re.findall(r'(?:href|src)="page/([^"]+)"', document)
    }
    assert loaded | set(DOCUMENTS) == {path.name for path in FILES}


def imports(module):
    names = re.findall(r'from "([^"]+)"', module.read_text(encoding="utf-8"))
    assert all(name.startswith("./") for name in names)
    return [name.removeprefix("./") for name in names]
