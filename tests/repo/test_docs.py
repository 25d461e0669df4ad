"""The documents hold: links lead somewhere, settings and commands exist, and what exists is documented."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "clients" / "python" / "README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_operating_lists_exactly_the_variables_that_are_read() -> None:
    sources = [*(ROOT / "syncserver").glob("*.py"), ROOT / "script" / "server"]
    read = set()
    for source in sources:
        text = source.read_text()
        read |= set(re.findall(r"""(?:env\.)?(?:text|integer|number|flag|words)\(\s*"([A-Z_]+)\"""", text))
        read |= set(re.findall(r"\$\{([A-Z_]+):-", text))
    documented = set()
    for row in re.findall(r"^\| (`[A-Z].*?) \|", (ROOT / "docs" / "operating.md").read_text(), re.M):
        documented |= set(re.findall(r"`([A-Z_]+)`", row))
    assert documented == read


def test_every_script_that_the_documents_name_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"\bscript/([a-z]+)\b", page.read_text())}
    assert [name for name in sorted(named) if not (ROOT / "script" / name).exists()] == []


def test_every_management_command_that_the_documents_name_exists() -> None:
    ours = {file.stem for file in ROOT.glob("*/management/commands/*.py") if file.stem != "__init__"}
    others = {"migrate", "makemigrations", "check", "createsuperuser", "shell", "collectstatic", "help", "spectacular"}
    others |= {"drf_create_token"}
    named = {name for page in PAGES for name in re.findall(r"manage\.py ([a-z_]+)", page.read_text())}
    assert named - ours - others == set()


def test_no_page_names_a_path_of_one_machine() -> None:
    assert [page for page in PAGES if re.search(r"/(work|root|home)/", page.read_text())] == []
