"""Pages about places to run: shell that bash reads, flags that the programs have, and pods that are one run."""

import re
import subprocess
import tomllib

import pytest
from support.markdown import PAGES, PROGRAMS, blocks, commands, sent
from support.places import ROOT

from mixlm.errors import MISTAKE, UNFINISHED
from mixlm.parallel.processes import ProcessSpec, process_spec

RUN = ROOT / "docs" / "run"
# Commands of other people's programs with the flags that the pages use, as their references have them: docs.docker.com,
# cloud.google.com/sdk/gcloud/reference, slurm.schedmd.com, and src/xpk/parser of github.com/AI-Hypercomputer/xpk.
FLAGS = {
    "docker build": "build-arg tag",
    "docker push": "",
    "docker run": "env gpus net privileged rm user volume",
    "gcloud compute tpus tpu-vm create": "accelerator-type version zone",
    "gcloud compute tpus tpu-vm ssh": "command worker zone",
    "gcloud compute tpus queued-resources create": "accelerator-type node-count node-prefix runtime-version zone",
    "gcloud compute tpus queued-resources ssh": "command node worker zone",
    "sbatch": "",
    "#SBATCH": "gpus-per-node job-name nodes ntasks-per-node open-mode requeue signal time",
    "srun": "",
    "xpk cluster create": "cluster num-slices spot tpu-type",
    "xpk storage create": "access-mode auto-mount cluster mount-point readonly size tier type vol",
    "xpk workload create": "cluster command docker-image env max-restarts num-slices restart-on-exit-codes "
    "termination-grace-period-seconds tpu-type workload",
}


def opened(words):
    """These words and all commands that they start elsewhere."""
    found = []
    while words is not None and words[0] != "mixlm":
        found.append(words[1:] if words[0] == "sudo" else words)
        words = sent(found[-1])
    return found


FOUND = [
    (place, words)
    for page in PAGES
    for place, outer in commands(page)
    for words in opened(outer)
    if words[0] in PROGRAMS
]
SCRIPTS = {block.title: block for page in PAGES for block in blocks(page, "bash") if block.title}
DIRECTIVES = [
    (str(block), line.split()) for block in SCRIPTS.values() for line in block.text.splitlines() if "#SBATCH" in line
]


def flags_of(words):
    """(the command of FLAGS that begins like these words, the flags that come after it); None for an unknown one."""
    text = " ".join(words)
    for name in FLAGS:
        if text == name or text.startswith(f"{name} "):
            rest = words[len(name.split()) :]
            inner = sent(words)
            own = rest if inner is None or words[0] == "gcloud" or words[0] == "xpk" else rest[: -len(inner)]
            return name, {re.sub("^--", "", word).partition("=")[0] for word in own if word.startswith("-")}
    return None


@pytest.mark.parametrize(("place", "words"), FOUND + DIRECTIVES, ids=[place for place, _ in FOUND + DIRECTIVES])
def test_a_program_has_the_command_and_its_flags(place, words):
    found = flags_of(words)
    assert found is not None, f"{place}: {' '.join(words[:4])} is not known to this test"
    name, flags = found
    assert flags <= set(FLAGS[name].split()), f"{place}: {name} has no {flags - set(FLAGS[name].split())}"


def test_no_flag_is_known_that_no_page_uses():
    used = {}
    for _, words in FOUND + DIRECTIVES:
        name, flags = flags_of(words)
        used[name] = used.get(name, set()) | flags
    assert used == {name: set(flags.split()) for name, flags in FLAGS.items()}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: page.name)
def test_bash_reads_every_block(page):
    for block in blocks(page, "bash"):
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, f"{block}: {done.stderr}"


def test_what_an_image_is_built_with_is_in_the_dockerfile():
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", (ROOT / "Dockerfile").read_text(), re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    given = [word.removeprefix("--build-arg=") for _, words in FOUND for word in words if "--build-arg=" in word]
    assert given
    for name, _, value in (each.partition("=") for each in given):
        assert name in arguments and (name != "EXTRAS" or value in extras)


def test_a_script_is_submitted_under_its_name_and_queued_again_where_its_run_is_not_over():
    submitted = {words[-1] for _, words in FOUND if words[0] == "sbatch"}
    assert submitted == set(SCRIPTS) - {"deshuffling.py"} != set()
    for name in submitted:
        text = SCRIPTS[name].text
        assert text.startswith("#!/bin/bash\n#SBATCH ")
        assert f"if [ $? -ge {UNFINISHED} ]; then scontrol requeue" in text


def test_xpk_restarts_a_run_that_is_not_over():
    (words,) = [words for _, words in FOUND if words[:3] == ["xpk", "workload", "create"]]
    assert f"--restart-on-exit-codes={UNFINISHED}" in words  # by default 42 and 127 to 255 alone


def test_the_pods_of_a_job_are_one_run(monkeypatch):
    yaml = pytest.importorskip("yaml")
    (block,) = blocks(RUN / "gke.md", "yaml")
    service, job = yaml.safe_load_all(block.text)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    rules = {rule["action"]: rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"]}
    wanted = {"Ignore": [UNFINISHED], "FailJob": [MISTAKE]}
    assert rules == {action: {"operator": "In", "values": codes} for action, codes in wanted.items()}
    assert pod["restartPolicy"] == "Never"  # what a pod failure policy asks for
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    (container,) = pod["containers"]
    for pod_index in range(spec["completions"]):
        given = {each["name"]: each.get("value", str(pod_index)) for each in container["env"]}
        with monkeypatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            assert process_spec() == ProcessSpec("dual-0.mixlm:1234", spec["parallelism"], pod_index)
