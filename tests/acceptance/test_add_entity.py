"""docs/entities.md, done as it says: one model, one declaration, two commands, in a copy of the project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.acceptance.acceptance_support import fresh_database
from tests.acceptance.document_support import blocks, copy_of_the_project

SECONDS_MAX = 120
USE_IT = """
import uuid
from django.test import Client
from devices.enroll import create_code
from entities.models import Customer, Employee, Visit

code = create_code(["country:Germany", "employee:{employee}"])
told = Client().post("/devices/enroll", {{"code": code, "name": "x"}}, "application/json").json()
headers = {{"authorization": "Bearer " + told["token"]}}
employee = Employee.objects.create(id="{employee}", number=1, first_name="E", last_name="E")
customer = Customer.objects.create(name="C", country="Germany")
Visit.objects.create(customer=customer, employee=employee, made_at="2026-11-21T09:00:00Z", note="from the server")
values = {{"customer_id": str(customer.pk), "employee_id": str(employee.pk), "made_at": "2026-11-21T10:00:00.5+01:00"}}
mutation = {{"id": str(uuid.uuid4()), "entity": "visit", "row": str(uuid.uuid4()), "op": "create", "set": values}}
answer = Client().post("/sync/push", {{"mutations": [mutation]}}, "application/json", headers=headers)
print(answer.json()["results"][0]["status"])
for row in Client().get("/sync/pull", headers=headers).json()["changes"]["visit"]["upserts"]:
    print(row["made_at"], row["note"], row["approved"], row["_rev"])
"""


def test_one_model_and_one_declaration_make_an_entity(tmp_path: Path) -> None:
    copy_of_the_project(tmp_path)
    shutil.rmtree(tmp_path / "tests")
    (model,) = [block.text for block in blocks("entities.md") if block.language == "python"]
    with (tmp_path / "entities" / "models.py").open("a") as file:
        file.write("\n\n" + model)
    with fresh_database() as database_url:
        environment = os.environ | {"DATABASE_URL": database_url, "SYNC_DATA_DIR": str(tmp_path / "data")}
        environment |= {"LOG_LEVEL": "ERROR", "ALLOWED_HOSTS": "testserver", "PYTHONPATH": ""}

        def manage(*arguments: str) -> str:
            command = [sys.executable, "manage.py", *arguments]
            ended = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
            return ended.stdout

        assert "Create model Visit" in manage("makemigrations")
        manage("migrate")
        manage("check", "--database", "default", "--fail-level", "WARNING")
        script = USE_IT.format(employee="0198a1b2-0000-7000-8000-000000000001")
        assert manage("shell", "--no-imports", "-c", script).splitlines() == [
            "applied",
            "2026-11-21T09:00:00.000000Z from the server False 1",
            "2026-11-21T09:00:00.500000Z  False 1",
        ]
