# SPDX-License-Identifier: MIT-0
"""The CloudFormation template beside the hook scripts: whole in itself, and true to what it deploys."""
import re
import subprocess
from pathlib import Path

import pytest
import yaml

SCRIPTS = Path(__file__).resolve().parent.parent / "example-scripts"
HOOKS = {path.name for path in SCRIPTS.glob("create-*.sh")}


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: !Name value becomes {"Name": value}."""


def short_form(loader, name, node):
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_scalar(node)}


Loader.add_multi_constructor("!", short_form)


@pytest.fixture(scope="module")
def template() -> dict:
    return yaml.load((SCRIPTS / "gwlbtun.yaml").read_text(), Loader)


def short_forms(value, name):
    """The values of all short forms of a name, wherever they are."""
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for inner in value.values():
            yield from short_forms(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from short_forms(inner, name)


def user_data(template) -> str:
    return template["Resources"]["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Sub"]


def test_template_refers_only_to_what_it_has(template):
    resources = template["Resources"]
    known = set(resources) | set(template["Parameters"])
    inserted = [name for text in short_forms(template, "Sub") for name in re.findall(r"\$\{([^!}]+)\}", text)]
    names = set(short_forms(template, "Ref")) | {value.partition(".")[0] for value in short_forms(template, "GetAtt")}
    names |= {*inserted, *(resource["DependsOn"] for resource in resources.values() if "DependsOn" in resource)}
    assert {name for name in names if not name.startswith("AWS::")} <= known
    conditions = {value for value in short_forms(template["Resources"], "Condition") if isinstance(value, str)}
    assert conditions | {value[0] for value in short_forms(template, "If")} == {"OneArm"}
    assert {"OneArm", "TwoArms"} == set(template["Conditions"])
    types = {resource["Type"].rpartition("::")[2] for resource in resources.values()}
    assert types >= {"VPC", "LoadBalancer", "TargetGroup", "VPCEndpointService", "VPCEndpoint", "AutoScalingGroup"}


def test_template_offers_the_hooks_there_are(template):
    assert set(template["Parameters"]["Hook"]["AllowedValues"]) == HOOKS - {"create-local.sh"}
    two_arms = template["Conditions"]["TwoArms"]["Or"]
    assert [condition["Equals"] for condition in two_arms] == [
        [{"Ref": "Hook"}, script] for script in ("create-nat.sh", "create-nat-overlapping.sh")]


def test_template_opens_no_ports_but_to_the_load_balancer(template):
    resources = template["Resources"]
    subnets = [value["Ref"] for value in resources["LoadBalancer"]["Properties"]["Subnets"]]
    rules = {(rule["IpProtocol"], str(rule["FromPort"]), str(rule["ToPort"]), str(rule["CidrIp"]))
             for rule in resources["SecurityGroup"]["Properties"]["SecurityGroupIngress"]}
    health = str({"Ref": "HealthPort"})
    assert rules == {(*ports, str({"GetAtt": f"{subnet}.CidrBlock"})) for subnet in subnets
                     for ports in (("udp", "6081", "6081"), ("tcp", health, health))}
    assert resources["TargetGroup"]["Properties"]["Protocol"] == "GENEVE"


def test_template_sets_up_an_instance_by_a_right_script(template):
    script = re.sub(r"\$\{[^!}]+\}", "value", user_data(template))
    done = subprocess.run(["shellcheck", "-"], input=script, stdout=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 0, done.stdout
    assert "--no-source-dest-check" in script
    packages = re.search(r"dnf install -y (.*)", script).group(1).split()
    assert {"gcc", "make", "python3", "iproute", "nftables"} <= set(packages)
