import errno
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from twoviews.errors import DataError, RefusedError, ResourceError, UsageError
from twoviews.evaluation.features import (
    Embeddings,
    check_finite,
    check_labelled,
    embed,
    fingerprint_module,
    frozen,
)
from twoviews.staged import staged_beside

HOSTILE = (
    "plain.png",
    "new\nline.png",
    "carriage\rreturn\r\n.png",
    'quote",comma.png',
    "raw\udcff.png",
    "\ud800.png",
    "\udcc3\udca9.png",
    "\u00e9.png",
    "e\u0301.png",
    "-dash",
    "=1+1",
    "\U0001f600\u202e.png",
    " spaces ",
    '"><img src=x onerror=alert(1)>.png',
    "x" * 250,
)


def make(ids=HOSTILE, classes=("cat", "do\udcffg")):
    rng = np.random.default_rng(0)
    labels = np.arange(len(ids)) % (len(classes) + 1) - 1
    return Embeddings(rng.normal(size=(len(ids), 5)).astype(np.float32), tuple(ids), labels, tuple(classes), "abc")


def assert_same(a, b):
    np.testing.assert_array_equal(a.vectors, b.vectors)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert (a.ids, a.classes, a.fingerprint) == (b.ids, b.classes, b.fingerprint)
    assert b.vectors.dtype == np.float32
    assert b.labels.dtype == np.int64


def test_round_trip_of_hostile_ids(tmp_path):
    e = make()
    assert e.save(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    assert_same(e, Embeddings.load(tmp_path / "new" / "folder"))
    assert {p.name for p in (tmp_path / "new" / "folder").iterdir()} == {
        "vectors.npy",
        "index.csv",
        "meta.json",
    }
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["folder"]


def test_round_trip_of_no_samples_and_no_classes(tmp_path):
    e = Embeddings(np.zeros((0, 3), np.float32), (), np.zeros(0, np.int64), (), "")
    assert_same(e, Embeddings.load(e.save(tmp_path / "e")))


def test_index_is_a_plain_table(tmp_path):
    make(ids=("a", "b", "c"), classes=("cat", "dog")).save(tmp_path / "e")
    assert (tmp_path / "e" / "index.csv").read_bytes() == b"id,label\r\na,\r\nb,cat\r\nc,dog\r\n"


def test_loads_other_float_layouts(tmp_path):
    e = make(ids=("a", "b"))
    e.save(tmp_path / "e")
    np.save(tmp_path / "e" / "vectors.npy", np.asfortranarray(e.vectors.astype(np.float64)))
    loaded = Embeddings.load(tmp_path / "e")
    assert_same(e, loaded)
    assert loaded.vectors.flags.c_contiguous
    assert loaded.vectors.flags.writeable


def test_select_by_index_mask_and_nothing():
    e = make()
    s = e.select([3, 0, 3])
    assert s.ids == (HOSTILE[3], HOSTILE[0], HOSTILE[3])
    np.testing.assert_array_equal(s.vectors, e.vectors[[3, 0, 3]])
    np.testing.assert_array_equal(s.labels, e.labels[[3, 0, 3]])
    mask = e.labels == 1
    assert e.select(mask).ids == tuple(i for i, m in zip(e.ids, mask, strict=True) if m)
    assert len(e.select([])) == 0
    with pytest.raises(IndexError):
        e.select([len(e)])


def test_save_refuses_a_folder_in_use_and_replaces_on_request(tmp_path):
    target = tmp_path / "e"
    first, second = make(), make(ids=("a",))
    target.mkdir()
    first.save(target)
    with pytest.raises(RefusedError, match=r"not empty.*pass overwrite"):
        second.save(target)
    assert_same(first, Embeddings.load(target))
    second.save(target, overwrite=True)
    assert_same(second, Embeddings.load(target))
    (target / "thesis.tex").write_text("mine")
    with pytest.raises(RefusedError, match=r"thesis\.tex|index\.csv"):
        first.save(target, overwrite=True)
    assert (target / "thesis.tex").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def test_save_onto_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RefusedError, match="cannot write embeddings"):
        make().save(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_ones_and_no_litter(tmp_path, monkeypatch):
    old = make(ids=("a",))
    old.save(tmp_path / "e")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match=r"no space left.*MB are needed.*MB are free"):
        make().save(tmp_path / "e", overwrite=True)
    assert_same(old, Embeddings.load(tmp_path / "e"))
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def test_what_a_killed_save_left_goes_with_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)
        killed.setattr(Embeddings, "_write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make().save(tmp_path / "e")
    assert len(list(tmp_path.iterdir())) == 1
    with staged_beside(tmp_path / "e.f") as other, staged_beside(tmp_path / "e") as same:
        make().save(tmp_path / "e")
        assert other.is_dir()
        assert same.is_dir()
        assert {p.name for p in tmp_path.iterdir()} == {"e", other.name, same.name}
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def test_killed_between_two_renames(tmp_path, monkeypatch):
    old, new, target = make(), make(ids=("a",)), tmp_path / "e"

    def kill():
        rename, done = Path.rename, []

        def renamed(path, to):
            if done:
                raise KeyboardInterrupt
            done.append(to)
            return rename(path, to)

        with monkeypatch.context() as killed:
            killed.setattr("shutil.rmtree", lambda *_, **__: None)
            killed.setattr(Path, "rename", renamed)
            with pytest.raises(KeyboardInterrupt):
                new.save(target, overwrite=True)
        assert not target.exists()

    old.save(target)
    kill()
    assert_same(old, Embeddings.load(target))
    kill()
    with pytest.raises(RefusedError, match="pass overwrite"):
        new.save(target)
    kill()
    new.save(target, overwrite=True)
    assert_same(new, Embeddings.load(target))
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def interrupt(*_):
    raise KeyboardInterrupt


def damage_index(folder):
    (folder / "index.csv").write_text("id,label\r\na,cow\r\n")


def damage_count(folder):
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"count": 7}))


def damage_meta(folder):
    (folder / "meta.json").write_text("[]")


def damage_shape(folder):
    path = folder / "vectors.npy"
    path.write_bytes(path.read_bytes().replace(b"(15, 5)", b"(15,99)"))


def damage_pickle(folder):
    (folder / "vectors.npy").write_bytes(pickle.dumps([1, 2]))


def damage_cut(folder):
    path = folder / "vectors.npy"
    path.write_bytes(path.read_bytes()[:-1])


def damage_kind(folder):
    np.save(folder / "vectors.npy", np.zeros((15, 5), dtype=np.int64))


@pytest.mark.parametrize(
    "damage",
    [damage_index, damage_count, damage_meta, damage_shape, damage_pickle, damage_cut, damage_kind],
)
def test_damaged_embeddings_are_named(tmp_path, damage):
    make().save(tmp_path / "e")
    damage(tmp_path / "e")
    with pytest.raises(DataError, match=r"/e' are damaged .*embed again"):
        Embeddings.load(tmp_path / "e")


class Bomb:
    def __reduce__(self):
        return (Path("went-off").touch, ())


def test_object_arrays_are_refused_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make().save(tmp_path / "e")
    np.save(tmp_path / "e" / "vectors.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(RefusedError, match="could run code"):
        Embeddings.load(tmp_path / "e")
    assert not Path("went-off").exists()


def test_missing_and_newer_embeddings(tmp_path):
    with pytest.raises(DataError, match=r"vectors\.npy is missing; make them with embed"):
        Embeddings.load(tmp_path)
    make().save(tmp_path / "e")
    path = tmp_path / "e" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(DataError, match="format 2, this version reads 1"):
        Embeddings.load(tmp_path / "e")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.zeros((2, 3))}, "float64"),
        ({"vectors": np.zeros(2, np.float32)}, r"vectors \(N, D\)"),
        ({"vectors": np.zeros((3, 3), np.float32)}, "one id a vector, got 3 and 2"),
        ({"labels": np.zeros(3, np.int64)}, "2 ids and labels"),
        ({"labels": np.zeros(2)}, "integer label"),
        ({"labels": np.array([0, 2])}, r"from 0 to 2, but with 2 classes they must lie in -1 \.\. 1"),
        ({"labels": np.array([0, -2])}, "from -2 to 0"),
        ({"classes": ("x", "x")}, "distinct"),
        ({"classes": ("", "x")}, "not empty"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    parts = {
        "vectors": np.zeros((2, 3), np.float32),
        "ids": ("a", "b"),
        "labels": np.array([0, -1]),
        "classes": ("x", "y"),
        "fingerprint": "",
    }
    Embeddings(**parts)
    with pytest.raises(UsageError, match=message):
        Embeddings(**(parts | change))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


def test_embed_equals_the_encoder_in_eval_mode_and_restores_each_mode():
    net = network()
    net[1].eval()
    x = torch.randn(10, 4)
    with frozen(net):
        vectors = embed(net, x.split(3), device="cpu")
    assert [m.training for m in net.modules()] == [True, True, False, True, True]
    assert vectors.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(vectors, net.eval()(x).numpy(), atol=1e-6)


def test_embed_restores_the_mode_after_an_error():
    net = network()
    with pytest.raises(RuntimeError):
        embed(net, [torch.zeros(2, 99)], device="cpu")
    assert all(m.training for m in net.modules())


def test_embed_under_autocast_gives_float32():
    x = torch.randn(8, 4)
    net = network()
    exact = embed(net, [x], device="cpu")
    rounded = embed(net, [x], device="cpu", autocast=torch.bfloat16)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.05


def test_tensors_that_the_loader_keeps_can_still_be_trained_on():
    kept = []

    def loader():
        kept.append(torch.ones(2, 4))
        yield kept[0]

    embed(network(), loader(), device="cpu")
    weight = torch.ones(4, requires_grad=True)
    (kept[0] * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("encoder", "batches", "error", "message"),
    [
        (nn.Identity(), [], DataError, "no batch"),
        (nn.Identity(), [torch.ones(2, 3, 4)], UsageError, r"\(2, 3, 4\) for a batch of 2"),
        (nn.Flatten(0, 1), [torch.ones(2, 3, 4)], UsageError, r"\(6, 4\) for a batch of 2"),
    ],
)
def test_embed_says_what_is_wrong(encoder, batches, error, message):
    with pytest.raises(error, match=message):
        embed(encoder, batches, device="cpu")


def test_fingerprint_sees_every_change_and_nothing_else():
    base = fingerprint_module(network())
    assert len(base) == 64
    assert base == fingerprint_module(network())
    assert base == fingerprint_module(network().eval().requires_grad_(False))
    seen = {base}
    for name in network().state_dict():
        net = network()
        net.state_dict()[name].view(-1)[0] += 1
        seen.add(fingerprint_module(net))
    assert len(seen) == 1 + len(network().state_dict())
    assert fingerprint_module(network().to(torch.bfloat16)) != base
    assert fingerprint_module(nn.Linear(2, 3, bias=False)) != fingerprint_module(nn.Linear(3, 2, bias=False))
    conv = nn.Conv2d(3, 4, 3)
    before = fingerprint_module(conv)
    assert fingerprint_module(conv.to(memory_format=torch.channels_last)) == before


def test_fingerprint_needs_tensors():
    class Odd(nn.Module):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(UsageError, match="'_extra_state' of Odd: its state is a dict"):
        fingerprint_module(Odd())


def test_frozen_names_what_changed():
    net = network()
    with (
        pytest.raises(RuntimeError, match=r"changed in '1\.running_mean' and 2 more: keep it in eval"),
        frozen(net),
    ):
        net(torch.randn(4, 4))
    with pytest.raises(RuntimeError, match=r"changed in '3\.bias': "), frozen(net), torch.no_grad():
        net[3].bias += 1e-3
    with frozen(net.eval()):
        net(torch.randn(4, 4))


def test_frozen_does_not_hide_the_error_of_its_block():
    net = network()
    with pytest.raises(IndexError), frozen(net):
        net[int(net(torch.randn(4, 4)).numel())]


@pytest.mark.parametrize(
    ("vectors", "labels", "error", "message"),
    [
        (np.zeros((2, 1)), np.array([0, 3]), DataError, r"from 0 to 3, but must lie in 0 \.\. 2"),
        (np.zeros((2, 1)), np.array([-1, 0]), DataError, "leave out samples without a label"),
        (np.zeros((2, 1)), np.array([0.0, 1.0]), UsageError, "integer labels"),
        (np.zeros((2, 1)), np.array([0]), UsageError, "2 vectors need 2"),
        (np.zeros((0, 1)), np.zeros(0, int), DataError, "no labelled vectors"),
        (np.array([[0.0], [np.nan], [np.inf]]), np.array([0, 0, 0]), DataError, r"2 of 3 .*first: row 1\)"),
        (np.zeros(2), np.array([0, 0]), UsageError, r"must be \(N, D\), got \(2,\)"),
    ],
)
def test_check_labelled(vectors, labels, error, message):
    with pytest.raises(error, match=message):
        check_labelled(vectors, labels, classes=3)


def test_check_finite_names_what_it_checks():
    check_finite(np.zeros((0, 2)))
    with pytest.raises(DataError, match="1 of 1 query vectors are not finite"):
        check_finite(np.array([[np.nan]]), what="query vectors")
