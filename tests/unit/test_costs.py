"""The monthly bill: small cases calculated by hand, and properties of all bills."""

import json
import math

import pytest
import yaml
from click.testing import CliRunner
from samcli.yamlhelper import yaml_parse

from model.sagemaker.autoscaling import UTILIZATION
from pipeline.costs import bill, usage
from pipeline.costs.bill import SETTINGS, Setting, baseline_design, project, recommended
from pipeline.costs.table import BEGIN, BEGIN_DECISIONS, SCALES, bills, decisions, table
from pipeline.markdown import END
from scones import cli
from tests.bench import capacity
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "costs.md"


def test_every_price_has_a_source_and_a_date():
    listed = json.loads(bill.PRICES.read_bytes())["prices"]

    assert all(one["page"].startswith("https://aws.amazon.com/") and one["date"] for one in listed.values())


def test_transitions_are_counted_along_the_longest_path():
    definition = {
        "StartAt": "a",
        "States": {
            "a": {"Type": "Task", "Next": "good?", "Catch": [{"Next": "broken"}]},
            "good?": {"Type": "Choice", "Choices": [{"Next": "yes"}], "Default": "no"},
            "yes": {"Type": "Pass", "Next": "notified"},
            "notified": {"Type": "Task", "End": True},
            "no": {"Type": "Succeed"},
            "broken": {"Type": "Fail"},
        },
    }

    assert usage.transitions(definition, "yes") == 4
    assert usage.transitions(definition, "no") == 3
    with pytest.raises(ValueError, match="broken"):
        usage.transitions(definition, "broken")


def test_cloudformations_tags_are_dropped():
    text = "a: !Sub [x, {b: !Ref c}]\nd: !If [e, 1, 2]\nf: !GetAtt g.Arn\nh: 8\n"

    assert yaml.load(text, usage.TemplateLoader) == {
        "a": ["x", {"b": "c"}],
        "d": ["e", 1, 2],
        "f": "g.Arn",
        "h": 8,
    }


def test_the_template_is_read_as_sam_reads_it():
    sam = yaml_parse(usage.TEMPLATE.read_text())["Resources"]
    ours = usage.template()["Resources"]

    assert {name: one["Type"] for name, one in ours.items()} == {
        name: one["Type"] for name, one in sam.items()
    }
    assert usage.memory("serialize") == sam["SerializeFunction"]["Properties"]["MemorySize"]


def test_standard_charges_for_each_transition_of_the_deployed_definition():
    steps = sum(share * usage.photo_transitions(outcome) for outcome, share in bill.OUTCOMES.items())

    assert project(Setting(), 1000).lines["Step Functions"] == pytest.approx(steps * 0.025)


def test_the_baseline_design_matches_a_calculation_by_hand():
    lines = baseline_design(1_000_000).lines

    assert lines["Step Functions"] == pytest.approx(75)
    assert baseline_design(0.0).idle_month == pytest.approx(730 * 0.23)
    assert lines["SageMaker"] > 730 * 0.23


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_bill_grows_from_the_idle_month_with_each_photo(setting):
    months = [project(setting, photos).month for photos in (1, 1_000, 1_000_000)]

    assert project(setting, 1).idle_month < months[0] < months[1] < months[2]
    assert math.isclose(project(setting, 1_000_000).per_million, months[2])


def test_a_serverless_endpoint_costs_nothing_when_idle():
    assert project(Setting(endpoint="serverless"), 1).idle["SageMaker"] == 0
    assert project(Setting(), 1).idle["SageMaker"] == pytest.approx(730 * 0.115)


def test_instances_follow_the_busiest_hour():
    full = UTILIZATION * usage.photos_per_second() * bill.SECONDS / bill.PEAK

    assert [bill.instances(Setting(), photos) for photos in (0, full * 0.99, full * 1.01, full * 2.5)] == [
        *(1, 1, 2, 3)
    ]


def test_no_more_is_captured_than_monitoring_needs():
    assert [bill.capture_share(photos) for photos in (0, 150_000, 300_000, 10**9)] == [1, 1, 0.5, 0.01]


@pytest.mark.parametrize("photos", SCALES)
def test_the_recommendation_costs_less_than_the_baseline_design(photos):
    assert recommended(photos).month < baseline_design(photos).month / 2
    assert recommended(photos).idle_month < baseline_design(photos).idle_month / 3


def test_both_designs_capture_the_same_share_of_the_photos():
    photos = 10_000_000
    measured = usage.measured()["photos"]["small"]["bytes"]
    months = int(usage.template()["Parameters"]["PhotoRetentionDays"]["Default"]) / 30

    storage = photos * measured * (1 + bill.capture_share(photos) * 4 / 3) / bill.GB * months
    requests = photos * (
        bill.prices()["s3_put"] * (1 + bill.capture_share(photos) / bill.RECORDS_A_FILE)
        + bill.prices()["s3_get"]
    )

    assert baseline_design(photos).lines["S3"] == pytest.approx(
        requests + storage * bill.prices()["s3_gb_month"]
    )


@pytest.mark.parametrize("photos", SCALES)
def test_the_decisions_lead_from_the_baseline_design_to_the_recommendation(photos):
    _, baseline, *_, last = bill.decisions(photos).values()

    assert baseline == pytest.approx(baseline_design(photos).month)
    assert last == pytest.approx(recommended(photos).month)


@pytest.mark.parametrize(
    ("begin", "computed"),
    [(BEGIN, table(bills(SCALES, "small"), "small")), (BEGIN_DECISIONS, decisions(SCALES, "small"))],
    ids=["bills", "decisions"],
)
def test_the_page_shows_what_the_command_computes(begin, computed):
    shown = PAGE.read_text().partition(begin)[2].partition(END)[0].strip()

    assert shown == computed, "scones cost --update docs/costs.md"


def test_the_bills_are_printed_as_json_and_put_into_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\n{BEGIN_DECISIONS}\n{END}\nafter\n")

    done = CliRunner().invoke(cli, ["cost", "--photos", "5000", "--json", "--update", str(page)])

    found = json.loads(done.output)
    assert [one["design"] for one in found] == ["baseline design", *map(str, SETTINGS)]
    assert sum(one["recommended"] for one in found) == 1
    assert all(math.isclose(sum(one["services"].values()), one["month"], abs_tol=1e-3) for one in found)
    assert page.read_text().startswith(f"before\n{BEGIN}\n\n| photos a month")
    assert (tmp_path / "costs.svg").read_bytes().startswith(b"<?xml")


def test_a_page_without_a_section_to_update_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")

    done = CliRunner().invoke(cli, ["cost", "--update", str(page)])

    assert done.exit_code == 1
    assert BEGIN in done.output
    assert page.read_text() == "nothing\n"


@pytest.mark.parametrize(("photos", "instances"), [(1_000, 1), (5_000, 4), (12_000, 1)])
def test_a_burst_costs_what_its_simulation_does(photos, instances):
    # 300 a second, which Lambda's default quota admits without retries
    simulated = capacity.simulate(photos, photos / 300, instances=instances, rate=usage.photos_per_second())

    priced = bill.burst(photos, instances)

    assert simulated.failed == 0
    assert priced.dollars == pytest.approx(simulated.cost, rel=0.25)
    assert simulated.seconds < 1.1 * priced.seconds


def test_the_price_of_a_burst_is_printed():
    priced = CliRunner().invoke(cli, ["cost", "--burst", "10000", "--json"])
    shown = CliRunner().invoke(cli, ["cost", "--burst", "10000"])

    assert json.loads(priced.output)["photos"] == 10_000
    assert shown.output.startswith("10,000 photos at once on 1 x ml.m5.large: the last is answered after")


def test_a_photo_that_waits_enters_as_many_states_as_are_priced():
    states = json.loads(usage.DEFINITION.read_text())["States"]

    (caught,) = [one for one in states["Classify"]["Catch"] if "EndpointBusyError" in one["ErrorEquals"]]
    around = [caught["Next"], states[caught["Next"]]["Choices"][0]["Next"]]
    around.append(states[around[-1]]["Next"])
    assert around[-1] == "Classify"
    assert len(around) == bill.TRANSITIONS_TO_WAIT
