"""Where weights are looked for, and what is said where they cannot be had."""

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants

from microtome.encoders import fetch as fetch_module
from microtome.encoders.base import Card
from microtome.encoders.fetch import fetch_encoders, open_encoders
from microtome.encoders.hub import fetch_weights
from microtome.encoders.registry import read_card
from microtome.encoders.weights import cached_weights, download_path, folder_name
from microtome.errors import WeightsError
from tests.encoders.web import Site, serving

HUB = Card(name="phikon", dim=1, input_px=8, tile_px=8, repo="owner/phikon", file="phikon.bin")
LINK = Card(name="prostate", dim=1, input_px=8, tile_px=8, file="weights.pth")
BY_HAND = Card(
    name="ctranspath", dim=1, input_px=8, tile_px=8, file="ctranspath.pth", url="https://drive.google.com/drive/x"
)
PARTS = replace(BY_HAND, name="hipt", file="a.pth, b.pth")
WEIGHTS = b"PK weights"
COMMIT = "0" * 39 + "1"


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("MICROTOME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MICROTOME_WEIGHTS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


@pytest.fixture
def given(monkeypatch, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv("MICROTOME_WEIGHTS", str(folder))
    return folder


def put(path, content=WEIGHTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def in_hub_cache(tmp_path, file, revision="main"):
    repository = tmp_path / "hub" / "models--owner--phikon"
    put(repository / "refs" / revision, COMMIT.encode())
    return put(repository / "snapshots" / COMMIT / file)


class TestFolder:
    def test_a_folder_of_the_encoders_name_or_the_file_alone(self, given):
        alone = put(given / "phikon.bin")
        assert fetch_weights(HUB) == alone
        own = put(given / "phikon" / "phikon.bin")
        assert fetch_weights(HUB) == cached_weights(HUB) == own

    @pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
    def test_a_name_that_many_repositories_use_counts_only_in_the_encoders_folder(self, given, file):
        card = replace(HUB, file=file)
        put(given / file)
        assert cached_weights(card) is None
        own = put(given / "phikon" / file)
        assert cached_weights(card) == cached_weights(replace(card, file="")) == own

    def test_variants_share_a_folder(self, given):
        own = put(given / "phikon" / "phikon.bin")
        assert cached_weights(replace(HUB, name="phikon:mean")) == own

    def test_weights_of_several_files_are_a_folder_with_all_of_them(self, given):
        put(given / "hipt" / "a.pth")
        assert cached_weights(PARTS) is None
        put(given / "hipt" / "b.pth")
        assert cached_weights(PARTS) == given / "hipt"

    def test_what_is_elsewhere_is_still_looked_for(self, given, tmp_path):
        assert given.is_dir()
        there = in_hub_cache(tmp_path, "phikon.bin")
        assert cached_weights(HUB) == there

    def test_a_folder_that_is_not_there_is_an_error(self, monkeypatch, tmp_path):
        monkeypatch.setenv("MICROTOME_WEIGHTS", str(tmp_path / "nowhere"))
        with pytest.raises(WeightsError, match="MICROTOME_WEIGHTS names"):
            fetch_weights(HUB)

    def test_names_of_open_families_are_folders(self):
        assert folder_name(replace(HUB, name="timm:resnet18.a1_in1k")) == "timm_resnet18.a1_in1k"
        assert folder_name(replace(HUB, name="hf-hub:owner/repo@v1")) == "hf-hub_owner_repo_v1"


class TestHubCache:
    def test_found_without_network_as_the_hubs_client_finds_it(self, tmp_path, monkeypatch):
        there = in_hub_cache(tmp_path, "phikon.bin")
        assert cached_weights(HUB) == there
        assert cached_weights(replace(HUB, revision=COMMIT)) == there
        assert cached_weights(replace(HUB, revision="v2")) is None
        assert cached_weights(replace(HUB, file="")) is None
        found = huggingface_hub.try_to_load_from_cache("owner/phikon", "phikon.bin", cache_dir=constants.HF_HUB_CACHE)
        assert str(there) == found
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fetch_weights(HUB) == there

    def test_the_usual_names_where_the_card_has_none(self, tmp_path):
        there = in_hub_cache(tmp_path, "pytorch_model.bin")
        assert cached_weights(replace(HUB, file="")) == there

    def test_nothing_there(self, monkeypatch):
        assert cached_weights(HUB) is None
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match=r"(?s)HF_HOME.*--weights none"):
            fetch_weights(HUB)


class TestLink:
    def test_downloaded_once_and_found_afterwards(self, monkeypatch):
        with serving(Site(WEIGHTS)) as site:
            card = replace(LINK, url=site.url + "?dl=0")
            assert card.link == site.url + "?dl=0"
            assert cached_weights(card) is None
            path = fetch_weights(card, shown=lambda done, total: None)
        assert path == cached_weights(card) == download_path(card)
        assert path.read_bytes() == WEIGHTS
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fetch_weights(card) == path

    def test_offline_it_says_where_the_file_belongs(self, monkeypatch):
        card = replace(LINK, url="https://127.0.0.1:9/weights.pth")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match=r"(?s)prostate/weights\.pth.*HF_HUB_OFFLINE.*encoders fetch prostate"):
            fetch_weights(card)

    def test_a_page_is_no_link(self):
        assert BY_HAND.link == ""
        assert replace(BY_HAND, url="https://example.org/ctranspath.pth.html").link == ""
        assert replace(BY_HAND, url="https://example.org/ctranspath.pth", repo="owner/name").link == ""


def test_what_only_a_person_can_download_is_said_with_where_and_what_then():
    with pytest.raises(
        WeightsError, match=r"ctranspath\.pth at https://drive\.google.*--weights FILE.*MICROTOME_WEIGHTS"
    ):
        fetch_weights(BY_HAND)
    with pytest.raises(WeightsError, match=r"a\.pth and b\.pth at .*--weights FOLDER"):
        fetch_weights(PARTS)
    with pytest.raises(WeightsError, match="no published weights"):
        fetch_weights(replace(BY_HAND, url=""))


@pytest.mark.parametrize("name", ["ctranspath", "chief-ctranspath", "retccl"])
def test_google_drives_encoders_are_known_to_need_a_person(name):
    with pytest.raises(WeightsError, match=r"https://\S+.*--weights FILE"):
        fetch_weights(read_card(name))


class Hub:
    """A hub that answers as the real one does, for one repository."""

    def __init__(self):
        self.status, self.code, self.tokens = 200, "", []

    def handler(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(b"")

            def do_GET(self):
                self.answer(WEIGHTS)

            def answer(self, body):
                hub.tokens.append(self.headers.get("Authorization"))
                self.send_response(hub.status)
                if hub.code:
                    self.send_header("X-Error-Code", hub.code)
                    self.send_header("X-Error-Message", "no")
                fine = hub.status == 200
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", '"abc"')
                self.send_header("Content-Length", str(len(WEIGHTS)) if fine else "0")
                self.end_headers()
                self.wfile.write(body if fine else b"")

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def hub(monkeypatch):
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), made.handler())
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


class TestHub:
    def test_a_file_comes_with_the_users_token_and_is_found_afterwards(self, hub, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        path = fetch_weights(HUB)
        assert path.read_bytes() == WEIGHTS
        assert "Bearer hf_mine" in hub.tokens
        assert cached_weights(HUB) == path
        n_asked = len(hub.tokens)
        hub.status = 500
        assert cached_weights(HUB) == path
        assert len(hub.tokens) == n_asked

    def test_gated_without_a_token_says_how_to_log_in(self, hub):
        hub.status, hub.code = 401, "GatedRepo"
        with pytest.raises(
            WeightsError, match=r"https://huggingface\.co/owner/phikon, accept.*'hf auth login' or set HF_"
        ):
            fetch_weights(HUB)

    def test_gated_with_a_token_says_that_the_token_has_no_access(self, hub, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        hub.status, hub.code = 403, "GatedRepo"
        with pytest.raises(WeightsError, match=r"your token does not have it.*whoami"):
            fetch_weights(HUB)

    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [(404, "RepoNotFound", "no repository.*not logged in"), (404, "EntryNotFound", "it has none of phikon.bin")],
    )
    def test_what_is_not_there(self, hub, status, code, said):
        hub.status, hub.code = status, code
        with pytest.raises(WeightsError, match=said):
            fetch_weights(HUB)


class TestFetch:
    @pytest.fixture
    def cards(self, monkeypatch):
        known: dict[str, Card] = {}
        monkeypatch.setattr(fetch_module, "read_card", known.__getitem__)
        monkeypatch.setattr(fetch_module, "list_encoders", lambda: tuple(known))
        return known

    def test_done_then_skipped_and_a_failure_stops_nobody(self, cards):
        with serving(Site(WEIGHTS)) as site:
            cards.update(
                prostate=replace(LINK, url=site.url),
                ctranspath=BY_HAND,
                other=replace(LINK, name="other", url=site.url),
            )
            first = list(fetch_encoders(["prostate", "ctranspath", "other"]))
        again = list(fetch_encoders(["prostate"]))
        assert [f.status for f in first] == ["done", "failed", "done"]
        assert first[0].path == again[0].path == download_path(cards["prostate"])
        assert "drive.google" in first[1].reason
        assert again[0].status == "skipped"

    def test_a_file_that_is_another_one_is_a_failure(self, cards):
        cards["prostate"] = replace(LINK, url="https://127.0.0.1:9/weights.pth", sha256="0" * 64)
        put(download_path(cards["prostate"]))
        (found,) = fetch_encoders(["prostate"])
        assert found.status == "failed"
        assert hashlib.sha256(WEIGHTS).hexdigest() in found.reason

    def test_no_weights_to_fetch(self, cards):
        cards["texture"] = replace(LINK, file="")
        (found,) = fetch_encoders(["texture"])
        assert (found.status, "no weights to fetch" in found.reason) == ("failed", True)

    def test_all_open_ones_leave_out_what_is_gated_by_hand_or_the_same_file(self, cards):
        cards.update(
            {
                "phikon": HUB,
                "phikon:mean": replace(HUB, name="phikon:mean"),
                "uni": replace(HUB, name="uni", repo="owner/uni", gated=True),
                "ctranspath": BY_HAND,
                "titan": replace(HUB, name="titan", repo="owner/titan", unavailable="remote code"),
                "prostate": replace(LINK, url="https://example.org/weights.pth"),
            }
        )
        assert open_encoders() == ("phikon", "prostate")
