"""Schedule files: our format and Distiller's mean what they say, and everything else is refused
with a sentence."""

import pytest

from gluonlm.compress.pruning import Rule
from gluonlm.compress.schedule_file import parse_schedule, read_schedule
from gluonlm.system.errors import UserError

# the shape of the schedules that were published with the pruning example, with other numbers
DISTILLER = """
version: 1
pruners:
  first:
    class: 'AutomatedGradualPruner'
    initial_sparsity : 0.1
    final_sparsity: 0.6
    weights: [rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.weight_hh_l1]
  words:
    class: AutomatedGradualPruner
    initial_sparsity : 0.05
    final_sparsity: 0.85
    weights: [encoder.weight]
policies:
  - pruner:
      instance_name : first
    starting_epoch: 2
    ending_epoch: 10
    frequency: 3
  - pruner:
      instance_name : 'words'
    starting_epoch: 3
    ending_epoch: 5
    frequency: 1
"""


def test_all_keys():
    text = """
    - tensors: [layers.*, decoder.weight]
      sparsity: 0.8
      initial: 0.1
      begin: 2
      end: 5
      every: 0.5
    - tensors: encoder.weight
      sparsity: 0.03
      begin: 1.5
    """
    assert parse_schedule(text) == (
        Rule(("layers.*", "decoder.weight"), 0.8, 0.1, 2, 0.5, 6),
        Rule(("encoder.weight",), 0.03, 0.03, 1.5, 1.0, 0),
    )


def test_only_a_sparsity():
    assert parse_schedule("- sparsity: 0.5") == (Rule(("*",), 0.5, 0.05, 0, 1.0, 0),)
    (rule,) = parse_schedule("- {sparsity: 0.5, end: 3}")
    assert (rule.steps, rule.every) == (20, pytest.approx(0.15))


def test_a_distiller_schedule_means_the_same():
    first, words = parse_schedule(DISTILLER)
    assert first.tensors == ("layers.0.i2h_weight", "layers.0.h2h_weight", "layers.1.h2h_weight")
    # it prunes at the beginning of epochs 2, 5 and 8: the last is the final sparsity
    assert [first.sparsity(epoch) for epoch in (1, 2, 5, 8, 9)] == pytest.approx(
        [0, 0.1, 0.6 - 0.5 / 8, 0.6, 0.6], abs=1e-12
    )
    assert words == Rule(("encoder.weight",), 0.85, 0.05, 3, 1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {sparsity: 0.5", "not YAML in line"),
        ("", "must be a list of rules"),
        ("[]", "must be a list of rules"),
        ("just a word", "must be a list of rules"),
        ("- 0.5", "rule 1 must be a mapping with sparsity, tensors"),
        ("- {sparsty: 0.5}", "rule 1: sparsty is unknown: use sparsity, tensors"),
        ("- {sparsity: 0.5}\n- {begin: 3}", "rule 2: sparsity is missing"),
        ("- {sparsity: 80}", "sparsity 80: must be between 0 and 1"),
        ("- {sparsity: half}", "sparsity must be a number"),
        ("- {sparsity: .nan}", "sparsity nan: must be a number"),
        ("- {sparsity: 0.5, end: .inf}", "end inf: must be a number from 0 on"),
        ("- {sparsity: true}", "sparsity must be a number"),
        ("- {sparsity: 0.5, initial: 0.6}", "initial 0.6 is above sparsity 0.5"),
        ("- {sparsity: 0.5, begin: -1}", "begin -1: must be a number from 0 on"),
        ("- {sparsity: 0.5, begin: 4, end: 3}", "end 3 is before begin 4"),
        ("- {sparsity: 0.5, end: 3, every: 2}", "every 2 does not divide end - begin = 3"),
        ("- {sparsity: 0.5, end: 3, every: 0}", "every 0 does not divide"),
        ("- {sparsity: 0.5, end: 3, every: 1.0e-300}", "every 1e-300 does not divide"),
        ("- sparsity: 2024-13-45", "month must be in 1..12"),
        (
            DISTILLER.replace("instance_name : first", "instance_name : [a]"),
            "policies, 1: pruner: instance_name must be text",
        ),
        ("- {sparsity: 0.5, tensors: [3]}", "tensors must be text or a list of text"),
        (
            DISTILLER.replace("AutomatedGradualPruner\n", "BaiduRNNPruner\n"),
            "BaiduRNNPruner is not supported",
        ),
        (
            DISTILLER.replace("instance_name : first", "instance_name : second"),
            "uses a pruner second",
        ),
        (DISTILLER.replace("ending_epoch: 10", "ending_epoch: 2"), "ending_epoch must be after"),
        (
            DISTILLER.replace("ending_epoch: 10", "ending_epoch: 2.5"),
            "ending_epoch must be a whole number",
        ),
        (
            DISTILLER.replace("final_sparsity: 0.6", "final_sparsity: 1.6"),
            "sparsity 1.6: must be between 0 and 1",
        ),
        (DISTILLER + "lr_schedulers: {}", "lr_schedulers is unknown"),
        ("pruners: 3\npolicies: []", "pruners must be a mapping"),
        ("pruners: {}", "policies is missing"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(UserError, match=message):
        parse_schedule(text)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"missing.yaml.*give a file with a pruning schedule"):
        read_schedule(str(tmp_path / "missing.yaml"))


def test_aliases_of_aliases_are_not_written_out():
    lines = ["a: &a0 [x, x]"] + [f"b{i}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]" for i in range(40)]
    for key in ("sparsity", "tensors", "pruners"):
        text = "\n".join([*lines, f"{key}: *a40", "policies: *a40"])
        for one in (text, "- " + text.replace("\n", "\n  ")):
            with pytest.raises(UserError) as caught:
                parse_schedule(one)
            assert len(str(caught.value)) < 1000
