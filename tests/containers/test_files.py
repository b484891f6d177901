"""What can be said of the container files without an engine."""

import re
import subprocess
import venv
from itertools import pairwise
from pathlib import Path
from zipfile import ZipFile

import yaml

from experiments.compose.simulation import NAMES, OWNER

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KIT = yaml.safe_load((ROOT / "server/provision/kit/docker-compose.yml").read_text())
MONITORING = ("prometheus", "grafana")
LAST_STAGE = "\nFROM environment\n"


def stages(name: str) -> list[str]:
    return (ROOT / name).read_text().split("\n\n", 1)[1].split(LAST_STAGE)


def test_both_images_share_all_layers_but_the_last() -> None:
    (server, own), (client, other) = stages("Dockerfile.server"), stages("Dockerfile.client")
    assert server == client
    assert own != other


def make_wheel(index: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    folder = index / name
    folder.mkdir(parents=True)
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: numpy\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    page = "".join(f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in folder.iterdir())
    (folder / "index.html").write_text(page)


def test_an_index_that_has_torch_alone_is_enough(tmp_path: Path) -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    for name in ("torch", "torchvision"):
        make_wheel(tmp_path / "index", name, f"{pinned[name]}+cpu")
    (install,) = re.findall(
        r"RUN (pip install .* torch torchvision)\n", stages("Dockerfile.client")[0]
    )
    venv.create(tmp_path / "venv", with_pip=True)
    environment = {
        "PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin",
        "TORCH_INDEX": (tmp_path / "index").as_uri(),
        "PIP_CONFIG_FILE": "/dev/null",
    }
    subprocess.run(["sh", "-ec", install], cwd=ROOT, env=environment, check=True)
    listed = subprocess.run(
        [tmp_path / "venv/bin/pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert listed == [f"{name}=={pinned[name]}+cpu" for name in ("torch", "torchvision")]


def test_images_run_as_the_owner_of_the_folders() -> None:
    for name in ("Dockerfile.server", "Dockerfile.client"):
        text = (ROOT / name).read_text()
        assert f"--uid {OWNER} " in text
        assert f"\nUSER {OWNER}\n" in text


def test_no_container_can_fill_its_machine() -> None:
    for name, service in (COMPOSE["services"] | KIT["services"]).items():
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
        assert service["pids_limit"] == 2000, name
        assert "mem_limit" in service or name in ("folders", "data", "keys"), name


def test_images_that_no_registry_has_are_not_looked_for() -> None:
    for name, service in (COMPOSE["services"] | KIT["services"]).items():
        expected = None if name in MONITORING else "never"
        assert service.get("pull_policy") == expected, name


def test_what_cannot_be_mended_is_not_tried_for_long() -> None:
    for name, service in COMPOSE["services"].items():
        expected = "on-failure:2" if name in (*NAMES, "server") else None
        if name in MONITORING:
            expected = "unless-stopped"
        assert service.get("restart") == expected, name


def test_steps_see_what_they_need() -> None:
    for name, targets in {"data": ["/hospitals"], "keys": ["/federation"]}.items():
        volumes = COMPOSE["services"][name]["volumes"]
        assert [volume.rpartition(":")[2] for volume in volumes] == targets


def test_every_container_is_fenced_in() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("cap_add", []) == (
            [] if name != "folders" else ["CHOWN", "DAC_OVERRIDE"]
        )
        assert (service.get("user") == "0") == (name == "folders"), name
    assert COMPOSE["networks"]["federation"] == {"internal": True}


def test_each_hospital_has_its_own_shard_key_and_state_and_no_others() -> None:
    for name in NAMES:
        service = COMPOSE["services"][name]
        sources = [volume.rpartition(":/")[0] for volume in service["volumes"]]
        assert len(sources) == 4
        assert sources.pop() == "slots"
        assert all(source.endswith(f"/{name}") for source in sources)
        shard, kit, _state, _slots = service["volumes"]
        assert shard.endswith(":/shard:ro")
        assert kit.endswith(":/kit:ro")
        assert service["environment"]["FLOWER_CLIENT_NAME"] == name


def test_the_gpu_file_names_the_same_services() -> None:
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert gpu.keys() == {*NAMES, "server", "pretrain"}


def test_a_site_with_a_gpu_takes_the_comment_signs_away() -> None:
    above, title, below = (
        (ROOT / "server/provision/kit/docker-compose.yml")
        .read_text()
        .partition("Container Toolkit:\n")
    )
    block, rest = below.split("\n\n", 1)
    services = yaml.safe_load(f"{above}{title}{block.replace('# ', '')}\n\n{rest}")["services"]
    simulated = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    (site,), (own,) = (
        service["deploy"]["resources"]["reservations"]["devices"]
        for service in (services["client"], simulated["hospital-00"])
    )
    assert site == own
    assert "\nGPU=0\n" in (ROOT / "server/provision/kit/.env").read_text()


def test_every_variable_stands_in_the_example_with_its_default() -> None:
    text = "".join((ROOT / f"docker-compose{kind}.yml").read_text() for kind in ("", ".gpu"))
    used = dict(re.findall(r"\$\{([A-Z_]+):?-([^{}$]*)\}", text))
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name in re.findall(r"\$\{([A-Z_]+):-[^{}$]*\$\{", text):
        assert example.pop(name, "") == ""  # its default follows from other variables
    assert example == used
    for before, line in pairwise(lines):
        assert line.startswith("#") or before.startswith("#") or not line, line
