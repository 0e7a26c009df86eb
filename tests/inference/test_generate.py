"""The generate command, and the way between text and tokens."""

import io
import itertools
import sys

import mxnet as mx
import pytest
from gluonnlp.data import SacreMosesDetokenizer

from gluonlm.cli import dashes
from gluonlm.config import Config
from gluonlm.generate import main, parser
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import Strategy, generate
from gluonlm.model.checkpoint import Trained, build_model, save_model
from gluonlm.system.errors import UserError
from gluonlm.text import sources
from gluonlm.text.corpus import EOS, UNK, Dictionary
from gluonlm.text.detokenize import Detokenizer, to_text, tokens_of

WORDS = [EOS, UNK, "the", "cat", "sat", "N", *(f"w{number}" for number in range(24))]


def save(path, words, level):
    mx.random.seed(4)
    config, dictionary = Config(emsize=8, nhid=8, nlayers=1, data="austen"), Dictionary(words)
    model = build_model(config, len(dictionary))
    model.initialize(mx.init.Uniform(0.5), force_reinit=True)
    save_model(Trained(model, dictionary, config, level, path))
    return model, dictionary


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save(path, WORDS, "word")
    return str(path)


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "char.pt"
    save(path, "\n abcdefgh", "char")
    return str(path)


def test_writes_what_generation_returns(words, tmp_path, capsys):
    model, dictionary = save(tmp_path / "same.pt", WORDS, "word")
    (ids,) = generate(Predictor(model), dictionary, length=40, strategy=Strategy(seed=5))
    assert main([words, "--words", "40", "--seed", "5", "--unk", "keep"]) == [
        to_text(dictionary.decode(ids))
    ]
    (written,) = main([words, "--words", "40", "--seed", "5"])
    assert UNK not in written
    assert capsys.readouterr().out.endswith(f"{written}\n" if written[-1] != "\n" else written)


def test_the_default_is_a_thousand_words_and_the_seed_decides(words):
    runs = [
        main([words, "--eos", "forbid", *more])[0]
        for more in ([], [], ["--seed", "1111"], ["--seed", "2"])
    ]
    assert runs[0] == runs[1] == runs[2] != runs[3]
    assert len(runs[0].split()) == 1000
    assert "\n" not in runs[0]


@pytest.mark.parametrize("option", ["--seed_text", "--seed-text"])
def test_goes_on_from_a_phrase_with_unknown_words(words, capsys, option):
    (written,) = main(
        ["--checkpoint", words, option, "The cat, 37 zebras", "--words", "5", "--eos", "forbid"]
    )
    assert written.startswith("the cat N zebras ")
    assert len(written.split()) == 4 + 5
    assert capsys.readouterr().err == f"not in the vocabulary, read as {UNK}: zebras\n"
    (as_unknown,) = main([words, option, f"the cat N {UNK}", "--words", "5", "--eos", "forbid"])
    assert as_unknown.split()[4:] == written.split()[4:]
    (other,) = main([words, option, "sat sat sat", "--words", "5", "--eos", "forbid", "--greedy"])
    assert other.split()[3:] != written.split()[4:]


def test_sentences_and_samples(words, capsys):
    written = main([words, "--sentences", "2", "--samples", "3", "--words", "900"])
    assert [text.count("\n") for text in written] == [2, 2, 2]
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("---")] == [
        "--- 1 ---",
        "--- 2 ---",
        "--- 3 ---",
    ]
    assert main([words, "--sentences", "2", "--words", "900"]) == written[:1]


def test_beam_writes_its_best(words):
    best = main([words, "--beam", "6", "--samples", "3", "--words", "4", "--eos", "forbid"])
    assert len(set(best)) == 3
    assert all(len(text.split()) == 4 for text in best)
    assert main([words, "--beam", "6", "--words", "4", "--eos", "forbid"]) == best[:1]


def test_no_words_in_a_row_come_twice(words):
    line = [words, "--words", "60", "--eos", "forbid", "--greedy"]
    plain, other = (main([*line, *more])[0].split() for more in ([], ["--no-repeat", "2"]))
    pairs, others = (list(itertools.pairwise(text)) for text in (plain, other))
    assert len(set(pairs)) < len(pairs)
    assert len(set(others)) == len(others)
    assert main([*line, "--repetition-penalty", "5"])[0].split() != plain


def test_streams_as_words_come(words, monkeypatch):
    pieces = []

    class Terminal(io.StringIO):
        def flush(self):
            pieces.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Terminal())
    (written,) = main([words, "--words", "7", "--eos", "forbid", "--seed-text", "the"])
    assert pieces[0] == "the"
    assert pieces[1:] == [" ".join(written.split()[: n + 1]) for n in range(1, 8)]


def test_characters(characters):
    (written,) = main([characters, "--seed-text", "bad cafe", "--words", "30"])
    assert written.startswith("bad cafe")
    assert len(written) == 8 + 30
    (line,) = main([characters, "--sentences", "1"])
    assert line.endswith("\n")
    assert line.count("\n") == 1
    with pytest.raises(UserError, match="'z' is not among the 10 tokens"):
        main([characters, "--seed-text", "zebra"])


def test_a_file_instead_of_the_terminal(words, tmp_path, capsys):
    target = tmp_path / "generated.txt"
    (written,) = main(
        [words, "--outf", str(target), "--words", "30", "--log_interval", "10", "--raw"]
    )
    assert target.read_text() == written + "\n"
    assert len(written.split()) == 30
    assert EOS in main([words, "--words", "200", "--raw"])[0]
    out = capsys.readouterr().out
    assert out.startswith(
        "| generated 10/30 words\n| generated 20/30 words\n| generated 30/30 words\n"
    )
    with pytest.raises(UserError, match="cannot write"):
        main([words, "--outf", str(target / "file.txt")])


def test_a_mistake_leaves_the_file_as_it_was(words, tmp_path):
    target = tmp_path / "story.txt"
    target.write_text("a story")
    with pytest.raises(UserError, match="top-k 0"):
        main([words, "--outf", str(target), "--top-k", "0"])
    assert target.read_text() == "a story"


def test_ctrl_c_keeps_what_is_written(words, tmp_path, monkeypatch):
    from gluonlm import generate

    def interrupted(*arguments):
        yield from itertools.islice(stream(*arguments), 7)
        raise KeyboardInterrupt

    stream = generate.stream
    monkeypatch.setattr(generate, "stream", interrupted)
    target = tmp_path / "story.txt"
    with pytest.raises(KeyboardInterrupt):
        main([words, "--outf", str(target), "--raw"])
    assert len(target.read_text().split()) == 7


def test_the_word_level_example_s_options_mean_the_same():
    line = (
        "--data data/penn --checkpoint model.pt --outf generated.txt --words 1000 --seed 1111 "
        "--temperature 1.0 "
    )
    given = parser().parse_args(dashes((line + "--log-interval 100 --cuda").split()))
    assert (given.checkpoint, str(given.outf), given.words, given.seed) == (
        "model.pt",
        "generated.txt",
        1000,
        1111,
    )
    assert (given.temperature, given.log_interval, given.gpu) == (1.0, 100, "0")
    assert (parser().parse_args([]).words, parser().parse_args([]).seed) == (1000, 1111)


def test_model_pt_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="say which model"):
        main([])
    save(tmp_path / "model.pt", WORDS, "word")
    assert len(main(["--words", "3", "--eos", "forbid"])[0].split()) == 3


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("--temperature 0", "temperature 0.0: must be at least"),
        ("--temperature -1", "temperature -1.0"),
        ("--temperature 1e39", "at most 1e\\+30"),
        ("--samples 99999999999", "GiB of memory, and there are .*: lower --samples, --beam"),
        ("--beam 99999999999", "GiB of memory, and there are .*: lower --samples, --beam"),
        ("--top-p 1.5", "top-p 1.5"),
        ("--top-k 0", "top-k 0"),
        ("--greedy --top-p 0.9", "greedy"),
        ("--beam 4 --top-k 3", "leave out --top-k"),
        ("--beam 4 --temperature 0.5", "leave out --temperature"),
        ("--beam 4 --greedy", "leave out --greedy"),
        ("--no-repeat 1", "no-repeat 1"),
        ("--repetition-penalty 0.5", "repetition-penalty 0.5"),
        ("--beam 0", "--beam 0"),
        ("--beam 2 --samples 3", "lower --samples"),
        ("--words 0", "words 0"),
        ("--samples 0", "argument --samples: must be at least 1, not 0"),
        ("--beam 2 --samples -1", "argument --samples: must be at least 1, not -1"),
        ("--sentences 1 --eos forbid", "is forbidden"),
        ("--seed -1", "argument --seed: must be at least 0, not -1"),
        ("--raw --capitals", "argument --capitals: not allowed with argument --raw"),
        ("--cuda", "--gpu 0"),
        ("--checkpoint other.pt", "argument --checkpoint: not allowed with argument run"),
    ],
)
def test_bad_settings_are_told_in_a_sentence(words, options, what):
    with pytest.raises(UserError, match=what):
        main([words, *options.split()])


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("the company 's shares fell N % <eos>", "the company's shares fell N%\n"),
        ("it wo n't pay $ N million <eos> <unk> did", "it won't pay $N million\n<unk> did"),
        ("1 @,@ 000 well @-@ known , ( old ) men .", "1,000 well-known, (old) men."),
        ('he said " no " to " them " .', 'he said "no" to "them".'),
        ("emma's father i 'm told", "emma's father i'm told"),
        ("“ oh ! ” said he -- “ ' tis ma 'am . ”", "“oh!” said he -- “'tis ma'am.”"),
        ("the boys ' room at seven o 'clock", "the boys' room at seven o'clock"),
        ("“ 예 ” 라고 KBS가 말했다 .", "“예” 라고 KBS가 말했다."),
        ("he didn ’ t come at 10 : 30 , it ’ s", "he didn’t come at 10:30, it’s"),
        ("the boys ’ room at seven o ’ clock", "the boys’ room at seven o’clock"),
        ("‘ Yes , ’ he said", "‘Yes,’ he said"),
        ("L ’ homme qu ’ il aime , aujourd ’ hui", "L’homme qu’il aime, aujourd’hui"),
        ("„ Gut “ sagte er : „ Nein “ .", "„Gut“ sagte er: „Nein“."),
        ("“ Gut ” sagte “ er", "“Gut” sagte “er"),
        ("كيف ؟ هذا ، نعم", "كيف؟ هذا، نعم"),
    ],
)
def test_reads_well(tokens, text):
    assert to_text(tokens.split()) == text


def test_text_reads_as_gluonnlp_writes_it():
    """Where there is no quotation mark with a direction, which Moses does not know."""
    lines = (
        (sources.BUNDLED / "austen" / "valid.txt").read_text(encoding="utf-8").splitlines()[:400]
    )
    moses = SacreMosesDetokenizer()
    for words in (line.split() for line in lines if not set(line) & set("“”")):
        assert to_text(words) == moses(words, return_str=True)


def test_subwords_read_as_the_text_they_are_pieces_of():
    assert to_text(["▁She", "▁was", "▁un", "happ", "y", ".", EOS, "▁No"], "subword") == (
        "She was unhappy.\nNo"
    )


def test_a_phrase_is_cut_as_the_data_set_was():
    rules = {"tokenizer": "moses", "lowercase": True, "numbers": True}
    words = ["she", "said", "“", "oh", "!", "”", "mr.", "N", UNK, EOS]
    dictionary = Dictionary(words, about={"rules": rules})
    phrase = 'She said "Oh!" Mr. 12 Blifil'
    cut = ["she", "said", "“", "oh", "!", "”", "mr.", "N", "blifil"]
    assert tokens_of(phrase, dictionary, "word") == cut
    assert tokens_of("she said <unk>\noh", dictionary, "word") == ["she", "said", UNK, EOS, "oh"]


def test_capitals():
    assert to_text(
        ["she", "said", "i", "'m", "not", "i", "<eos>", "<unk>", "was", "<eos>", "i", "was"],
        capitals=True,
    ) == ("She said I'm not I\n<unk> was\nI was")
    assert to_text(['"', "no", ",", '"', "he", "said"], capitals=True) == '"No," he said'
    assert (
        to_text(["she", "sat", ".", "<unk>", ".", "did", "he", "?", "3", "did"], capitals=True)
        == "She sat. <unk>. Did he? 3 did"
    )
    assert (
        to_text(["“", "oh", "!", "”", "said", "she", ".", "no"], capitals=True)
        == "“Oh!” said she. No"
    )


def test_raw_and_characters_are_left_alone():
    assert to_text(["it", "'s", "<eos>", "$", "N"], raw=True) == "it 's <eos> $ N"
    assert to_text("a  b\nc ,", level="char", capitals=True) == "a  b\nc ,"


def test_text_comes_in_pieces():
    write = Detokenizer()
    assert [write(token) for token in ["do", "n't", EOS, "go"]] == ["do", "n't", "\n", "go"]


def test_a_phrase_in_the_vocabulary_s_spelling():
    dictionary = Dictionary([EOS, UNK, "emma", "N", "Mr", "don't", ","])
    assert tokens_of("“Emma,” Mr don't , 1,000.5\nzebra!", dictionary, "word") == [
        *["emma", "Mr", "don't", ",", "N", EOS, "zebra!"]
    ]
    assert tokens_of("ab?", Dictionary("ab"), "char") == ["a", "b", "?"]


def test_characters_have_no_capitals_of_their_own(characters):
    with pytest.raises(UserError, match="--capitals has no effect"):
        main([characters, "--capitals", "--words", "3"])
