"""Options of the whole suite: pytest takes them from here only."""

import os
from functools import cache
from importlib import import_module

import pytest
from django.conf import settings as project
from django.db import connection
from django.test import TransactionTestCase
from hypothesis import settings

pytest_plugins = [  # fixtures that files share; what another of them imports stands before it
    "tests.integration.alert_support",
    "tests.integration.legacy_files_support",
    "tests.integration.legacy_singer_support",
    "tests.integration.legacy_sql_support",
    "tests.integration.quarantine_pages_support",
    "tests.integration.rest_support",
    "tests.integration.subscription_support",
    "tests.integration.webhook_support",
]

settings.register_profile("shared machine", deadline=None)  # how long a case takes says nothing there
settings.load_profile("shared machine")
_options: dict[str, object] = project.DATABASES["default"]["OPTIONS"]  # type: ignore[assignment]
_options["options"] = "-c synchronous_commit=off"  # nobody pulls the plug in a test
if database := os.environ.get("TEST_DATABASE"):  # of a second session in this checkout: script/test runs three
    _tests: dict[str, object] = project.DATABASES["default"].setdefault("TEST", {})  # type: ignore[assignment]
    _tests["NAME"] = database
project.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a good one takes a quarter of a second

# Django empties every table after such a test, full or not, by TRUNCATE, which makes new files for it and each of its
# indexes; and then makes permissions and content types again. That was most of the time of this suite. Foreign keys are
# not looked at meanwhile, so the order is all one.
KEPT = frozenset({"auth_permission", "django_content_type", "django_migrations"})
TRUNCATED_BYTES_MIN = 1_000_000  # of a table: a large one is emptied sooner with new files
EMPTY = """DO $body$
DECLARE
    v_table text;
    v_large text[] := '{{}}';
    v_any boolean;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOREACH v_table IN ARRAY ARRAY[{tables}] LOOP
        CONTINUE WHEN to_regclass(quote_ident(v_table)) IS NULL; -- of a model that one file's tests had made
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', v_table) INTO v_any;
        IF v_any AND pg_table_size(quote_ident(v_table)) < {bytes} THEN
            EXECUTE format('DELETE FROM %I', v_table);
        ELSIF v_any THEN
            v_large := v_large || quote_ident(v_table);
        END IF;
    END LOOP;
    IF v_large <> '{{}}' THEN EXECUTE 'TRUNCATE ' || array_to_string(v_large, ', ') || ' CASCADE'; END IF;
    UPDATE sync_epoch SET since = NULL WHERE since IS NOT NULL; -- a database that was never restored, for the next one
    DELETE FROM sync_healed;
END $body$"""


@cache
def _emptying() -> str:
    tables = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - KEPT
    return EMPTY.format(tables=", ".join(f"'{table}'" for table in sorted(tables)), bytes=TRUNCATED_BYTES_MIN)


def _empty(_test: TransactionTestCase) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_emptying())


TransactionTestCase._fixture_teardown = _empty  # type: ignore[attr-defined]


def pytest_sessionstart() -> None:
    """Limits that are read when a module is imported are read before any test changes them."""
    import_module(project.ROOT_URLCONF)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, default=200, help="how many seeds to simulate (200)")
    group.addoption("--first-seed", type=int, default=1, help="the first of them (1)")
    group.addoption("--parties", type=int, default=2_000, help="parties of the ERP in the tests of many (2,000)")
    group.addoption("--steps", type=int, default=80, help="steps of each (80)")
