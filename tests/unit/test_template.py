# SPDX-License-Identifier: MIT-0
"""The CloudFormation template beside the hook scripts: whole in itself, and true to what it deploys.

Read as text, for want of a YAML parser in the standard library: sections start at a line's beginning, their entries two
columns in, and each rule and reference stands on a line of its own. `.ci/run` holds the script for the instances to shellcheck.
"""
import re
from pathlib import Path

from gwlbtun import cli

SCRIPTS = Path(__file__).resolve().parents[2] / "example-scripts"
HOOKS = {path.name for path in SCRIPTS.glob("create-*.sh")}
TEXT = (SCRIPTS / "gwlbtun.yaml").read_text()


def entries(section: str) -> dict:
    """The text of each entry of a section, by name; comments between entries go with the one before."""
    body = re.search(rf"^{section}:\n((?:(?: .*)?\n)*)", TEXT, re.MULTILINE)[1]
    return dict(re.findall(r"^  (\w+):(.*\n(?:(?:   .*|  #.*|)\n)*)", body, re.MULTILINE))


RESOURCES, PARAMETERS, CONDITIONS = map(entries, ("Resources", "Parameters", "Conditions"))


def test_template_is_read_to_its_end():
    assert set(re.findall(r"^  (\w+):", TEXT, re.MULTILINE)) == {
        name for section in (RESOURCES, PARAMETERS, CONDITIONS, entries("Outputs")) for name in section}
    types = {re.search(r"Type: AWS::\w+::(\w+)\n", text)[1] for text in RESOURCES.values()}
    assert types >= {"VPC", "LoadBalancer", "TargetGroup", "VPCEndpointService", "VPCEndpoint", "AutoScalingGroup"}


def test_template_refers_only_to_what_it_has():
    names = set(re.findall(r"!(?:Ref|GetAtt) ([\w:]+)", TEXT)) | set(re.findall(r"\$\{([^!}.]+)", TEXT))
    names |= set(re.findall(r"DependsOn: (\w+)", TEXT))
    assert len(names) > 20
    assert {name for name in names if not name.startswith("AWS::")} <= set(RESOURCES) | set(PARAMETERS)
    conditions = set(re.findall(r"(?:!If \[|!Condition |  Condition: )(\w+)", TEXT))
    assert conditions == set(CONDITIONS) == {"OneArm", "TwoArms", "Told"}


def test_template_offers_the_hooks_there_are():
    offered = re.findall(r"^      - (\S+)\n", PARAMETERS["Hook"], re.MULTILINE)
    assert sorted(offered) == sorted(HOOKS - {"create-local.sh"})
    assert re.findall(r"!Equals \[!Ref Hook, ([\w.-]+)\]", CONDITIONS["TwoArms"]) \
        == ["create-nat.sh", "create-nat-overlapping.sh"]


def test_template_opens_no_ports_but_to_the_load_balancer():
    subnets = re.search(r"Subnets: \[(.*)\]", RESOURCES["LoadBalancer"])[1].replace("!Ref ", "").split(", ")
    rules = re.search(r"SecurityGroupIngress:\n(.*)", RESOURCES["SecurityGroup"], re.DOTALL)[1]
    fields = "IpProtocol", "FromPort", "ToPort", "CidrIp"
    opened = [tuple(re.search(rf"{field}: ([^,}}\n]*)", rule)[1] for field in fields) for rule in rules.split(" - ")[1:]]
    assert sorted(opened) == sorted(
        (*ports, f"!GetAtt {subnet}.CidrBlock") for subnet in subnets
        for ports in (("udp", "6081", "6081"), ("tcp", "!Ref HealthPort", "!Ref HealthPort")))
    assert TEXT.count("IpProtocol") == len(opened) == 4
    assert "Protocol: GENEVE\n" in RESOURCES["TargetGroup"]


SCRIPT = RESOURCES["LaunchTemplate"].partition("UserData:")[2]


def test_template_sets_up_an_instance():
    assert "--no-source-dest-check" in SCRIPT
    packages = re.search(r"dnf install -y (\w.*)", SCRIPT)[1].split()
    assert {"python3", "iproute", "iproute-tc", "nftables", "util-linux", "gawk"} <= set(packages)
    assert re.search(r"aws s3 cp .*s3://\$\{Bucket\}/\$\{Key\}\" - \| tar ", SCRIPT)
    assert re.search(r"hook=/usr/local/share/gwlbtun/example-scripts/\$\{Hook\}\n", SCRIPT)


def test_template_starts_gwlbtun_by_its_unit():
    """The options in the environment file are gwlbtun's, and the unit reads that file."""
    options = re.search(r"cat >/etc/gwlbtun.conf <<EOF\n\s+OPTIONS=(.*)\n", SCRIPT)[1]
    settings = cli.parse(options.replace("$hook", "true").replace("${HealthPort}", "8080").replace("${TcpIdleTimeout}", "350")
                         .replace("$subnets", "10.60.4.0/24,10.60.5.0/24").split())
    assert (settings.create_hook, settings.flow_idle_s, len(settings.allow_from)) == ("true", 350, 2)
    assert "systemctl enable --now gwlbtun\n" in SCRIPT


def test_template_has_one_idle_time_for_the_load_balancer_and_gwlbtun():
    assert "{Key: tcp.idle_timeout.seconds, Value: !Ref TcpIdleTimeout}" in RESOURCES["Listener"]
    assert "-i ${TcpIdleTimeout}" in SCRIPT
    limits = dict(re.findall(r"(\w+): ([0-9]+)", PARAMETERS["TcpIdleTimeout"]))
    assert limits == {"Default": "350", "MinValue": "60", "MaxValue": "6000"}


def test_an_instance_enters_service_when_it_is_healthy():
    name = "${AWS::StackName}-gwlbtun"
    group = RESOURCES["AutoScalingGroup"]
    assert f'AutoScalingGroupName: !Sub "{name}"' in group
    hook = re.search(r"LifecycleHookName: (\w+)", group)[1]
    assert f"--auto-scaling-group-name {name} --lifecycle-hook-name {hook}" in SCRIPT
    assert re.search(r"if curl -fs .*localhost:\$\{HealthPort\}/\"; then\n\s+enter_service CONTINUE\n", SCRIPT)
    assert f"autoScalingGroupName/{name}" in RESOURCES["Role"]


def test_template_takes_packets_from_the_load_balancer_alone():
    subnets = re.search(r"Subnets: \[(.*)\]", RESOURCES["LoadBalancer"])[1].replace("!Ref ", "").split(", ")
    assert re.search(r"subnets=(.*)\n", SCRIPT)[1] == ",".join(f"${{{subnet}.CidrBlock}}" for subnet in subnets)
    assert not set(subnets) & set(re.findall(r"!Ref (\w+)", RESOURCES["AutoScalingGroup"]))


def test_alarms_watch_metrics_that_are_sent():
    sent = re.search(r'"metric_selectors": \["\^gwlbtun_\((.*?)\)\$"\]', SCRIPT)[1].split("|")
    watched = re.findall(r"MetricName: gwlbtun_(\w+)", TEXT)
    assert watched and set(watched) <= set(sent)
