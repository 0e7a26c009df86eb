"""The pooling against a plain loop, the layer against NumPy, its regularizers; test_parity has
PyTorch's values."""

import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from gluonlm import train
from gluonlm.config import Config
from gluonlm.model.qrnn import QRNNLayer
from gluonlm.model.rnn import RNNModel, detach
from gluonlm.presets import PRESETS, resolve
from gluonlm.system import native
from gluonlm.system.errors import UserError

T, N, INPUTS, H = 9, 4, 5, 7
native.load_operators("fo_pool")


def plain_loop(gates, c, keep=None):
    """The oracle: step by step in the arrays' own precision, with autograd's gradients."""
    outputs, cells, c = [], [], c[0]
    for t in range(len(gates)):
        z, f, o = nd.split(gates[t], 3, axis=1)
        update = nd.sigmoid(-f) if keep is None else nd.sigmoid(-f) * keep[t]
        c = (1 - update) * c + update * nd.tanh(z)
        outputs.append(nd.sigmoid(o) * c)
        cells.append(c)
    return nd.stack(*outputs), nd.stack(*cells)


def values_and_gradients(pool, arrays, heads):
    for array in arrays:
        array.attach_grad()
    with autograd.record():
        outputs = pool(*arrays)
    autograd.backward(list(outputs), list(heads))
    return [array.asnumpy() for array in (*outputs, *(array.grad for array in arrays))]


@pytest.mark.parametrize("zoneout", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 64, 500])
def test_the_pooling_is_the_plain_loop(steps, zoneout):
    """From a carried state, values and all gradients; 40 columns of 140 units are blocks for
    several threads."""
    columns, units = (40, 140) if steps == 3 else (2, 5)
    random = np.random.default_rng(steps)
    arrays = [
        random.normal(size=(steps, columns, 3 * units), scale=2),
        random.normal(size=(1, columns, units)),
    ]
    if zoneout:
        arrays.append(random.random(size=(steps, columns, units)))
    heads = random.normal(size=(2, steps, columns, units))  # gradients reach h and c at every step

    def fused(*arrays):
        return nd.gluonlm_fo_pool(*arrays, **({"zoneout": 1} if zoneout else {}))

    ours = values_and_gradients(fused, [nd.array(array) for array in arrays], nd.array(heads))
    exact = [nd.array(array, dtype="float64") for array in arrays]
    theirs = values_and_gradients(plain_loop, exact, nd.array(heads, dtype="float64"))
    assert len(ours) == 4 + zoneout
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def fake_cuda(tmp_path_factory):
    """A folder with a CUDA that runs kernels on the processor."""
    folder = tmp_path_factory.mktemp("cuda")
    driver, compiler = folder / "libcuda.so.1", folder / "libnvrtc.so.11.2"
    source = Path(__file__).parents[1] / "fixtures" / "fake_cuda.c"
    command = [native.find_compiler(), "-fPIC", "-shared", "-o", str(driver), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    compiler.write_bytes(driver.read_bytes())
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")
@pytest.mark.parametrize("zoneout", [False, True])
def test_the_kernels_for_gpus_compute_the_same(fake_cuda, tmp_path, zoneout):
    """Their source, compiled and run thread by thread on the processor; no GPU has been here to run
    them."""
    steps, columns, units = 6, 3, 50  # 150 columns are not a multiple of a block of threads
    random = np.random.default_rng(2)
    shapes = {"gates": (steps, columns, 3 * units), "c0": (1, columns, units)}
    shapes |= {"keep": (steps, columns, units)} if zoneout else {}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    dh, dc = random.normal(size=(2, steps, columns, units)).astype(np.float32)
    np.savez(tmp_path / "in.npz", dh=dh, dc=dc, **arrays)
    library = str(native.compiled(native.FOLDER / "fo_pool.c"))
    script = str(Path(__file__).parents[1] / "fixtures" / "run_on_fake_cuda.py")
    places = {"LD_LIBRARY_PATH": str(fake_cuda), "FAKE_CUDA": str(fake_cuda)}
    command = [sys.executable, script, library, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | places)
    assert ended.returncode == 0, ended.stderr
    on_gpu = np.load(tmp_path / "out.npz")

    def on_cpu(*arrays):
        return nd.gluonlm_fo_pool(*arrays, **({"zoneout": 1} if zoneout else {}))

    expected = values_and_gradients(
        on_cpu, [nd.array(array) for array in arrays.values()], [nd.array(dh), nd.array(dc)]
    )
    assert len(on_gpu.files) == len(expected) == 4 + zoneout
    for name, right in zip(on_gpu.files, expected, strict=True):
        np.testing.assert_allclose(on_gpu[name], right, rtol=1e-5, atol=1e-5)


def test_gates_of_any_size_and_what_is_not_a_number():
    gates = nd.array(
        [[[0, 0, 0]], [[1e4, -1e4, 1e4]], [[-1e30, -1e30, 1e30]], [[5, 1e30, -1e30]]]
    )  # (T, 1, 3)
    gates.attach_grad()
    with autograd.record():
        h, c = nd.gluonlm_fo_pool(gates, nd.zeros((1, 1, 1)))
    h.backward()
    np.testing.assert_allclose(c.asnumpy().ravel(), [0, 1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(h.asnumpy().ravel(), [0, 1, -1, 0], atol=1e-6)
    assert np.isfinite(gates.grad.asnumpy()).all()
    for gate in range(3):  # training that has diverged must be noticed
        gates = np.zeros((2, 1, 3), np.float32)
        gates[0, 0, gate] = np.nan
        assert np.isnan(
            nd.gluonlm_fo_pool(nd.array(gates), nd.zeros((1, 1, 1)))[0].asnumpy()[0]
        ).all()


def layer(window=2, hybrid=True, **settings):
    mx.random.seed(2)
    made = QRNNLayer(INPUTS, H, window, **settings)
    made.initialize()
    if hybrid:
        made.hybridize(static_alloc=True)
    return made


def in_numpy(inputs, state, weight, bias, share=1.0):
    """The layer from its equations, float64; ``share`` multiplies the update 1 - f."""
    c, *previous = (array[0].astype(np.float64) for array in state)
    outputs = []
    for x in inputs.astype(np.float64):
        seen = np.concatenate([x, *previous], axis=1)
        z, f, o = np.split(seen @ weight.T.astype(np.float64) + bias, 3, axis=1)
        f, o = 1 / (1 + np.exp(-f)), 1 / (1 + np.exp(-o))
        f = 1 - share * (1 - f)
        c = f * c + (1 - f) * np.tanh(z)
        outputs.append(o * c)
        previous = [x] if previous else []
    return [np.stack(outputs), c[None], *(array[None] for array in previous)]


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("window", [1, 2])
def test_the_layer_is_its_equations(window, hybrid):
    block = layer(window, hybrid)
    random = np.random.default_rng(1)
    inputs = random.normal(size=(T, N, INPUTS))
    state = [random.normal(size=array.shape) for array in block.begin_state(N)]
    assert [array.shape for array in state] == [(1, N, H), (1, N, INPUTS)][:window]
    outputs, new_state = block(nd.array(inputs), [nd.array(array) for array in state])
    expected = in_numpy(inputs, state, block.weight.data().asnumpy(), block.bias.data().asnumpy())
    for one, other in zip([outputs, *new_state], expected, strict=True):
        np.testing.assert_allclose(one.asnumpy(), other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("cuts", [[1], [4], [8], list(range(1, T))])
def test_a_carried_state_is_one_long_segment(window, cuts):
    """In any pieces, down to steps one by one, and with gradients that go back through the carried
    state."""

    def run(cuts):
        block, state, parts = layer(window), None, []
        inputs = nd.random.normal(shape=(T, N, INPUTS))
        inputs.attach_grad()
        state = block.begin_state(N)
        with autograd.record():
            for begin, end in zip([0, *cuts], [*cuts, T], strict=True):
                outputs, state = block(inputs[begin:end], state)
                parts.append(outputs)
            whole = nd.concat(*parts, dim=0)
            loss = (whole**2).sum() + sum((array**2).sum() for array in state)
        loss.backward()
        return [array.asnumpy() for array in (whole, *state, inputs.grad, block.weight.grad())]

    # the weight's gradient holds the last piece's and those before it through autograd's sum
    for one, other in zip(run(cuts), run([]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "settings"), [(1, {}), (2, {}), (2, {"wdrop": 0.3}), (1, {"zoneout": 0.4})]
)
def test_the_gradients_are_finite_differences(window, settings):
    block, epsilon = layer(window, **settings), 1e-2
    inputs, head = nd.random.normal(shape=(T, N, INPUTS)), nd.random.normal(shape=(T, N, H))
    state = [nd.random.normal(shape=array.shape) for array in block.begin_state(N)]
    varied = [block.weight.data(), block.bias.data(), inputs, *state]
    for array in (inputs, *state):
        array.attach_grad()

    def loss():
        mx.random.seed(7)  # the same masks
        with autograd.record():
            outputs, _ = block(inputs, state)
            return (outputs * head).sum()

    loss().backward()
    gradients = [array.grad.copy() for array in varied]
    for array, gradient in zip(varied, gradients, strict=True):
        direction = nd.random.normal(shape=array.shape)
        direction /= direction.norm()
        array += epsilon * direction
        above = loss().asscalar()
        array -= 2 * epsilon * direction
        numeric = (above - loss().asscalar()) / (2 * epsilon)
        array += epsilon * direction
        assert (gradient * direction).sum().asscalar() == pytest.approx(numeric, rel=0.01, abs=5e-3)


def test_weight_drop_acts_on_all_of_the_linear_map_for_a_segment():
    dropping, plain = layer(wdrop=0.3), layer()
    mx.random.seed(5)
    with autograd.train_mode():
        mask = nd.Dropout(nd.ones(dropping.weight.shape), p=0.3)
    assert (mask.asnumpy() == 0).mean() == pytest.approx(0.3, abs=0.1)
    inputs = nd.random.normal(shape=(T, N, INPUTS))
    gradients = []
    for block in (dropping, plain):
        if block is plain:
            block.weight.set_data(plain.weight.data() * mask)
        mx.random.seed(5)
        with autograd.record():
            outputs, _ = block(inputs, block.begin_state(N))
        outputs.backward()
        gradients.append((outputs.asnumpy(), block.weight.grad().asnumpy()))
    (ours, gradient), (theirs, masked) = gradients
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, masked * mask.asnumpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        *(block(inputs, block.begin_state(N))[0].asnumpy() for block in (dropping, layer()))
    )  # evaluation


def test_zoneout_keeps_a_share_of_the_units_in_training_and_shrinks_the_update_in_evaluation():
    block = layer(1, zoneout=0.3)
    inputs, state = nd.random.normal(shape=(1, 500, INPUTS)), [nd.random.normal(shape=(1, 500, H))]
    with autograd.train_mode():
        _, (trained,) = block(inputs, state)
    kept = trained.asnumpy() == state[0].asnumpy()
    assert kept.mean() == pytest.approx(0.3, abs=0.03)
    assert 0 < kept.mean(axis=(0, 1)).std() < 0.1  # each unit for itself
    moved = layer(1)(inputs, state)[1][0].asnumpy()
    np.testing.assert_allclose(trained.asnumpy()[~kept], moved[~kept], rtol=1e-6, atol=1e-6)

    evaluated = block(inputs, state)[0].asnumpy()
    weights = block.weight.data().asnumpy(), block.bias.data().asnumpy()
    expected = in_numpy(inputs.asnumpy(), [state[0].asnumpy()], *weights, share=0.7)[0]
    np.testing.assert_allclose(evaluated, expected, rtol=1e-5, atol=1e-6)


def test_in_a_model_the_first_layer_sees_two_steps_and_the_others_one():
    model = RNNModel(
        30, "QRNN", emsize=6, nhid=8, nlayers=3, tied=True, narrow=True, wdrop=0.1, zoneout=0.2
    )
    assert [(one.window, one.input_size, one.hidden_size) for one in model.body.layers] == [
        (2, 6, 8),
        (1, 8, 8),
        (1, 8, 6),
    ]
    assert {(one.wdrop, one.zoneout) for one in model.body.layers} == {(0.1, 0.2)}
    assert [array.shape for array in model.begin_state(4)] == [
        (1, 4, 8),
        (1, 4, 6),
        (1, 4, 8),
        (1, 4, 6),
    ]
    narrow = RNNModel(30, "QRNN", emsize=6, nhid=8, window=1)
    assert [array.shape for array in narrow.begin_state(4)] == [(1, 4, 8)] * 2


def test_it_learns_a_text_that_needs_its_state():
    """a x x x a | b x x x b: the last letter is the first one's, four steps back, over a segment's
    border."""
    mx.random.seed(1)
    model = RNNModel(3, "QRNN", emsize=16, nhid=16, nlayers=2)
    model.initialize()
    model.hybridize(static_alloc=True)
    trainer = mx.gluon.Trainer(model.collect_params(), "adam", {"learning_rate": 0.01})
    loss_of, random = mx.gluon.loss.SoftmaxCELoss(axis=-1), np.random.default_rng(0)
    for _ in range(150):
        letter = nd.array(random.integers(2, size=(1, 32)))
        filler = nd.full((1, 32), 2)
        _, state = model(nd.concat(letter, filler, filler, dim=0), model.begin_state(32))
        with autograd.record():
            _, before = model(nd.concat(letter, filler, dim=0), model.begin_state(32))
            logits, _ = model(nd.concat(filler, filler, dim=0), before)
            loss = loss_of(logits[-1:], letter).mean()
        loss.backward()
        trainer.step(1)
    logits, _ = model(filler, detach(state))
    assert (logits[0].asnumpy().argmax(1) == letter.asnumpy()[0]).mean() > 0.95


def test_the_symbol_of_a_gluon_export_brings_the_operator_along(tmp_path):
    model = RNNModel(11, "QRNN", emsize=4, nhid=4)
    model.initialize()
    model.hybridize()
    inputs, state = nd.zeros((3, 2)), model.begin_state(2)
    expected, _ = model(inputs, state)
    model.export(str(tmp_path / "model"))
    program = f"""
import gluonlm, mxnet as mx
from gluonlm.model.exchange import load_gluon
block = load_gluon({str(tmp_path / "model")!r})
shapes = {[array.shape for array in state]}
logits, *_ = block(mx.nd.zeros((3, 2)), *(mx.nd.zeros(shape) for shape in shapes))
print(float(abs(logits).sum().asscalar()))
"""
    fresh = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )  # has no operator
    assert float(fresh.stdout) == pytest.approx(abs(expected).sum().asscalar(), rel=1e-5)


def test_settings_that_only_a_qrnn_has():
    with pytest.raises(UserError, match="--model QRNN"):
        Config(zoneout=0.1)
    with pytest.raises(UserError, match="--model QRNN"):
        Config(window=1)
    with pytest.raises(UserError, match="--window 3"):
        Config(model="QRNN", window=3)
    published = resolve("qrnn", {})
    assert (published.model, published.nlayers, published.nhid, published.emsize) == (
        "QRNN",
        4,
        1550,
        400,
    )
    assert (published.wdrop, published.clip, published.dropouti, published.dropouth) == (
        0.1,
        0.2,
        0.4,
        0.3,
    )
    assert set(PRESETS["qrnn"]) - set(PRESETS["awd"]) == {"model", "clip"}


def test_training_resumes_and_generates(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\nthe dog ran\n" * 100)
    run, sizes = (
        str(tmp_path / "run"),
        ["--emsize", "8", "--nhid", "12", "--nlayers", "2", "--tied", "--narrow"],
    )
    rates = [
        "--wdrop",
        "0.1",
        "--zoneout",
        "0.1",
        "--alpha",
        "2",
        "--beta",
        "1",
        "--locked",
        "--epochs",
        "1",
    ]
    train.main(
        ["--data", str(text), "--model", "QRNN", "--bptt", "7", *sizes, *rates, "--save", run]
    )
    result = train.main(["--resume", run, "--epochs", "2"])
    assert result.finished
    assert "QRNN: 2 layers of 12 units" in capsys.readouterr().out


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache" / "gluonlm" / "native"


def test_the_operator_is_compiled_once(cache, monkeypatch):
    source = native.FOLDER / "fo_pool.c"
    library = native.compiled(source)
    assert [path.name for path in cache.iterdir()] == [library.name]
    monkeypatch.setattr(subprocess, "run", None)
    assert native.compiled(source) == library
    monkeypatch.setattr(native, "cpu_flags", lambda: {"another processor"})
    with pytest.raises(TypeError):  # would compile for it
        native.compiled(source)


@pytest.mark.parametrize(
    "damage",
    [
        lambda library: library.write_bytes(b""),
        lambda library: library.write_bytes(library.read_bytes()[:3000]),
        lambda library: library.write_bytes(library.read_bytes()[:-1] + b"?"),
        lambda library: library.chmod(0o777),
        lambda library: (library.rename(library.with_suffix(".x")), library.symlink_to("/x.so")),
    ],
    ids=["empty", "truncated", "other content", "open to others", "a link"],
)
def test_a_library_that_is_not_as_it_was_made_is_made_again(cache, damage):
    library = native.compiled(native.FOLDER / "fo_pool.c")
    content = library.read_bytes()
    damage(library)
    again = native.compiled(native.FOLDER / "fo_pool.c")
    assert native.is_intact(again)
    assert len(again.read_bytes()) == len(content)


def test_code_in_a_folder_that_others_can_write_is_not_loaded(cache):
    native.compiled(native.FOLDER / "fo_pool.c")
    cache.chmod(0o777)
    with pytest.raises(UserError, match="can be written by others: set XDG_CACHE_HOME"):
        native.compiled(native.FOLDER / "fo_pool.c")


def test_what_can_go_wrong_with_the_compiler_is_said(cache, tmp_path, monkeypatch):
    broken = tmp_path / "broken.c"
    broken.write_text("int main(")
    with pytest.raises(UserError, match="cannot compile .*broken.c .*set CC"):
        native.compiled(broken)
    assert list(cache.iterdir()) == []
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match="no no-such-compiler"):
        native.compiled(broken)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs a C compiler, and there is no cc or gcc or clang"):
        native.compiled(broken)


def test_a_cache_that_cannot_be_written(cache, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file, no folder")
    with pytest.raises(UserError, match="choose another place"):
        native.compiled(native.FOLDER / "fo_pool.c")
