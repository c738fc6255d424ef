"""Keys of other packages, and of tables with slow hashes: what opened there opens here, and nothing else."""

import csv
import io
import json

import pytest

from flask_apikey import HashedKeys
from tests.core.adoption.test_import import IGNORED, import_file, import_json
from tests.core.adoption.test_samples import CODES, SAMPLES, moment, rows_of

DRF = ["drf-api-key-3.1.0", "drf-api-key-2.3.0"]
SLOW = ["bcrypt", "argon2", "werkzeug-scrypt", "werkzeug-pbkdf2"]

# Answers that differ from those of the other system. Each gives less access.
EXCEPTIONS = {
    ("drf-api-key", "revoked"): "key_revoked",
    ("drf-api-key", "hasher argon2, revoked"): "key_revoked",
    ("drf-api-key", "expired"): "key_expired",
    # get_usable_keys() of the application left it out, so the export marks it as revoked.
    ("drf-api-key", "model of their own, inactive organization"): "key_revoked",
    # Tables of slow hashes without a visible part: refused as a whole, see test_slow_hash_without_a_visible_part.
    **{("homemade", form): "refused at the import" for form in SLOW},
}


def text_of(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def organizations(folder):
    """Return the keys of organizations. Inactive ones are exported as revoked."""
    active = {each["id"]: each["active"] for each in rows_of(f"{folder}/orgs_organization.csv")}
    rows = rows_of(f"{folder}/orgs_organizationapikey.csv")
    return [{**row, "revoked": "0" if active[row["organization_id"]] == "1" else "1"} for row in rows]


def code_of(scene, key, scheme="Api-Key"):
    return scene.code(f"{scheme} {key}", "Authorization")


@pytest.fixture
def django(make_scene, tmp_path):
    scene = make_scene(f"sqlite:///{tmp_path}/django.db", APIKEY_ADOPTED_KEYS=["drf-api-key"])
    scene.clock.set(moment("2026-11-29T16:00:00"))
    return scene


class TestDjango:
    @pytest.mark.parametrize("folder", [DRF[0], pytest.param(DRF[1], marks=pytest.mark.slow)])
    def test_every_sample(self, django, folder):
        imported = import_json(
            django, SAMPLES / folder / "rest_framework_api_key_apikey.csv", "--digest", "drf-api-key"
        )
        assert imported["ignored_columns"] == ["id"]
        owned = ["--digest", "drf-api-key", "--column", "owner=organization_id"]
        import_file(django, "-", *owned, rows=text_of(organizations(folder)))
        samples = rows_of(f"{folder}/keys.csv")
        found = {each["case"]: code_of(django, each["key"]) for each in samples}
        outcomes = {each["case"]: None if each["outcome"] == "accepted" else "invalid_key" for each in samples}
        exceptions = {case: code for (origin, case), code in EXCEPTIONS.items() if origin == "drf-api-key"}
        assert found == outcomes | {case: code for case, code in exceptions.items() if case in found}
        assert {case for case, code in found.items() if code is None} == {
            each["case"] for each in samples if each["outcome"] == "accepted"
        }

    def test_table_of_the_first_versions(self, django):
        """Only the id has the hash, behind the prefix."""
        row = next(each for each in rows_of(f"{DRF[1]}/rest_framework_api_key_apikey.csv") if "md5" in each["id"])
        columns = {name: row[name] for name in ("id", "name", "created", "revoked", "expiry_date")}
        import_file(django, "-", "--digest", "drf-api-key", "--column", "digest=id", rows=text_of([columns]))
        key = next(each["key"] for each in rows_of(f"{DRF[1]}/keys.csv") if each["case"] == "hasher md5")
        assert (code_of(django, key), code_of(django, f"{key}a")) == (None, "invalid_key")

    def test_missing_column(self, django):
        """Without the column, revoked keys would open."""
        rows = [{"hashed_key": "x", "prefix": "x", "name": "x", "created": "", "expiry_date": ""}]
        refused = import_file(django, "-", "--digest", "drf-api-key", rows=text_of(rows), status=2)
        assert "no column 'revoked'" in refused.stderr

    def test_few_keys_on_every_storage(self, make_scene, any_storage_uri):
        scene = make_scene(any_storage_uri, APIKEY_ADOPTED_KEYS=["drf-api-key"])
        wanted = {"active", "revoked", "wrong secret", "hasher md5", "hasher bcrypt", "the hash presented"}
        scene.clock.set(moment("2026-11-29T16:00:00"))
        import_file(scene, SAMPLES / DRF[0] / "rest_framework_api_key_apikey.csv", "--digest", "drf-api-key")
        samples = [each for each in rows_of(f"{DRF[0]}/keys.csv") if each["case"] in wanted]
        found = [code_of(scene, each["key"]) for each in samples]
        assert found == [EXCEPTIONS.get(("drf-api-key", each["case"]), CODES[each["outcome"]]) for each in samples]
        replaced = [each for each in scene.do("list") if each.version == 2]
        assert sorted(each.name for each in replaced) == ["made with bcrypt", "made with md5"]
        assert code_of(scene, samples[2]["key"]) is None


class TestSanctum:
    @pytest.fixture
    def sanctum(self, make_scene, any_storage_uri):
        scene = make_scene(any_storage_uri, APIKEY_ADOPTED_KEYS=["sanctum"])
        scene.clock.set(moment("2026-11-29T16:00:00"))
        return scene

    def test_every_sample(self, sanctum):
        report = import_json(sanctum, SAMPLES / "sanctum" / "personal_access_tokens.csv", "--digest", "sanctum")
        assert report["ignored_columns"] == ["last_used_at", "tokenable_type", "updated_at"]
        for each in rows_of("sanctum/keys.csv"):
            expected = CODES[each["expected"].partition(":")[0]]
            assert (each["name"], code_of(sanctum, each["key"], "Bearer")) == (each["name"], expected)
        scopes = {each.name: set(each.scopes) for each in sanctum.do("list")}
        assert (scopes["no abilities"], scopes["trial"]) == (set(), {"*"})
        assert {each.owner for each in sanctum.do("list")} == {str(number) for number in range(100, 106)}

    def test_other_tokens_are_left_to_the_application(self, make_scene, tmp_path):
        scene = make_scene(f"sqlite:///{tmp_path}/sanctum.db", APIKEY_ADOPTED_KEYS=["sanctum"])
        jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.vN4OcFzWmhVmCm6dUKJDAVWYTzQ2zfmGIVGPTZhWYsU"
        for other in (jwt, "23a4705421b34c62c8e4153ff93edc44fc1c6740a0ea7849ef6f818fd6d78fd5", "a" * 48, "x|y"):
            assert code_of(scene, other, "Bearer") == "missing_key"
        assert code_of(scene, "7|a", "Bearer") == "invalid_key"

    def test_stored_digest_opens_nothing(self, sanctum):
        import_file(sanctum, SAMPLES / "sanctum" / "personal_access_tokens.csv", "--digest", "sanctum")
        for row in rows_of("sanctum/personal_access_tokens.csv"):
            for text in (row["token"], f"{row['id']}|{row['token']}"):
                assert sanctum.code(text) == "invalid_key"


class TestSlowHashes:
    @pytest.fixture
    def hashed(self, make_scene, tmp_path):
        return make_scene(f"sqlite:///{tmp_path}/hashed.db", APIKEY_ADOPTED_KEYS=[HashedKeys("acme", length=8)])

    @pytest.mark.parametrize("form", SLOW)
    def test_table_with_a_visible_part(self, hashed, form):
        hashed.clock.set(moment("2026-11-29T16:00:00"))
        keys = {each["name"]: each["key"] for each in rows_of(f"{form}.keys.csv")}
        rows = [{**row, "visible": keys[row["name"]][:8]} for row in rows_of(f"{form}.csv")]
        import_file(hashed, "-", "--digest", "acme", "--column", "digest=hash", *IGNORED, rows=text_of(rows))
        answers = {name: hashed.code(keys[name]) for name in ("carrier feed", "old laptop")}
        assert answers == {"carrier feed": None, "old laptop": "key_revoked"}
        assert hashed.code(keys["carrier feed"][:-1] + "~") == "invalid_key"
        assert hashed.code(keys["(of no row)"]) == "invalid_key"

    @pytest.mark.parametrize("form", SLOW)
    def test_slow_hash_without_a_visible_part(self, hashed, form):
        assert ("homemade", form) in EXCEPTIONS
        arguments = ["--digest", "acme", "--column", "digest=hash", *IGNORED]
        refused = import_file(hashed, SAMPLES / f"{form}.csv", *arguments, status=1)
        assert "nothing else finds its row" in refused.stderr
        assert hashed.do("count") == 0

    def test_hash_opens_nothing(self, hashed):
        row = rows_of("bcrypt.csv")[0]
        hashed.do("adopt", algorithm="acme", digest=row["hash"], visible=row["hash"][:8], name="x")
        assert hashed.code(row["hash"]) == "invalid_key"

    def test_output_shows_no_hash(self, hashed):
        arguments = ["--digest", "acme", "--column", "digest=hash", *IGNORED, "--json"]
        refused = import_file(hashed, SAMPLES / "bcrypt.csv", *arguments, status=1)
        assert json.loads(refused.stdout)["refused"] == 5
        assert "$2b$" not in refused.output
