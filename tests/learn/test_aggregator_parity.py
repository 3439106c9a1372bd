"""Aggregators against torchmil's, number by number, and against their papers."""

import numpy as np
import pytest
import torch

from wsi_pipeline.learn.aggregators import Abmil, ClamSb, Dsmil, GatedAbmil, smooth_svm
from wsi_pipeline.learn.transmil import HEADS, NystromLayer, TransMil, inverse

WIDTH = 12


@pytest.fixture
def reference():
    return pytest.importorskip("torchmil.models", reason="torchmil is not installed")


def bag(tiles=40):
    return torch.randn(tiles, WIDTH, generator=torch.Generator().manual_seed(3))


def give_attention(model, pool):
    """Copy our attention into torchmil's pool, which has no bias on its last layer."""
    with torch.no_grad():
        model.attention_w.bias.zero_()
        pool.fc1.module.weight.copy_(model.attention_v.weight)
        pool.fc1.module.bias.copy_(model.attention_v.bias)
        pool.fc2.weight.copy_(model.attention_w.weight)
        if isinstance(model, GatedAbmil):
            pool.fc_gated.module.weight.copy_(model.attention_u.weight)
            pool.fc_gated.module.bias.copy_(model.attention_u.bias)


@pytest.mark.parametrize("kind", [Abmil, GatedAbmil])
def test_abmil_equals_torchmil(reference, kind):
    ours = kind(WIDTH, 1, hidden=WIDTH)
    theirs = reference.ABMIL(in_shape=(WIDTH,), att_dim=128, gated=kind is GatedAbmil)
    give_attention(ours, theirs.pool)
    theirs.classifier.module.load_state_dict(ours.classify.state_dict())
    output = ours.pool(bag())
    logits, scores = theirs(bag()[None], return_att=True)
    torch.testing.assert_close(output.logits, logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.attention, scores[0].softmax(0), rtol=1e-5, atol=1e-7)


def svm_by_definition(scores, targets):
    """The smooth top-1 SVM as published; torchmil 1.0.2's own broadcasts targets over all rows."""
    right = scores.gather(1, targets.long())
    wrong = scores + 1 - torch.zeros_like(scores).scatter(1, targets.long(), 1.0)
    return (wrong - right).logsumexp(1).mean()


def test_clam_tiles_equal_torchmil(reference, monkeypatch):
    ours = ClamSb(WIDTH, 2, hidden=WIDTH)
    theirs = reference.CLAM_SB(in_shape=(WIDTH,), att_dim=128, gated=True, k_sample=8)
    monkeypatch.setattr(
        type(theirs.inst_loss_fn), "forward", lambda _, *given: svm_by_definition(*given)
    )
    give_attention(ours, theirs.pool)
    for mine, other in zip(ours.judge, theirs.inst_classifiers, strict=True):
        other.module.load_state_dict(mine.state_dict())
    output = ours.pool(bag())
    _, scores, embedded = theirs(bag()[None], return_att=True, return_emb=True)
    for target in (0, 1):
        expected = theirs.compute_inst_loss(scores, embedded, torch.tensor([target]))
        torch.testing.assert_close(ours.tile_loss(output, target), expected, rtol=1e-5, atol=1e-6)


def test_dsmil_equals_torchmil(reference):
    ours = Dsmil(WIDTH, 1, hidden=WIDTH)
    theirs = reference.DSMIL(in_shape=(WIDTH,), att_dim=128)
    theirs.inst_classifier.load_state_dict(ours.score.state_dict())
    theirs.q_nn.load_state_dict(ours.query.state_dict())
    theirs.bag_classifier.load_state_dict(ours.classify.state_dict())
    output = ours.pool(bag())
    _, attention, tiles = theirs(bag()[None], return_att=True, return_inst_pred=True)
    torch.testing.assert_close(output.logits, theirs.predict(bag()[None]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.attention, attention[0, :, 0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(output.instance_logits[:, 0], tiles[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tiles", [1, 7, 40, 300])
def test_transmil_equals_torchmil(reference, tiles):
    hidden = 32
    ours = TransMil(hidden, 1, hidden=hidden, dropout=0.0)
    theirs = reference.TransMIL(in_shape=(hidden,), att_dim=hidden, n_heads=HEADS)
    with torch.no_grad():
        theirs.cls_token.copy_(ours.token[None])
        for mine, other in zip((ours.first, ours.second), theirs.layers, strict=True):
            other.norm1.load_state_dict(mine.norm.state_dict())
            other.att_module.qkv_nn.load_state_dict(mine.project.state_dict())
        pyramid = (theirs.pos_layer.proj, theirs.pos_layer.proj1, theirs.pos_layer.proj2)
        for mine, other in zip(ours.position.convolve, pyramid, strict=True):
            other.load_state_dict(mine.state_dict())
        theirs.norm.load_state_dict(ours.norm.state_dict())
        theirs.classifier.load_state_dict(ours.classify.state_dict())
        embedded = torch.randn(tiles, hidden, generator=torch.Generator().manual_seed(4))
        output = ours.pool(embedded)
        logits, attention = theirs(embedded[None], return_att=True)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)
    weights = attention[0].clamp_min(0) + 1e-12
    torch.testing.assert_close(output.attention, weights / weights.sum(), rtol=1e-3, atol=1e-6)


def test_nystrom_attention_is_exact_where_every_token_is_a_landmark():
    """As many tokens as landmarks: softmax(QKᵀ)V, the attention that is approximated elsewhere."""
    hidden = 16 * HEADS
    layer = NystromLayer(hidden, 0.0).double()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(layer.landmarks, hidden, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found, first = layer(tokens)
        query, key, value = (
            part.unflatten(1, (HEADS, -1)).transpose(0, 1)
            for part in layer.project(layer.norm(tokens)).chunk(3, dim=1)
        )
        exact = (query @ key.mT / 4).softmax(2)
        expected = tokens + (exact @ value).transpose(0, 1).flatten(1)
    assert (found - expected).abs().max() < 0.2 * (expected - tokens).abs().max()
    assert (first - exact[:, 0].mean(0)).abs().max() < 0.05


def test_the_inverse_is_one():
    matrices = (torch.eye(12, dtype=torch.float64) * 4 + torch.rand(3, 12, 12)).softmax(2)
    found = inverse(matrices, steps=30)
    torch.testing.assert_close(found, torch.linalg.pinv(matrices), rtol=1e-6, atol=1e-8)


def test_smooth_svm_follows_its_definition():
    scores = np.random.default_rng(0).normal(size=(6, 3))
    targets = np.array([0, 1, 2, 0, 1, 2])
    expected = [
        np.log(sum(np.exp((j != y) + row[j] - row[y]) for j in range(3)))
        for row, y in zip(scores, targets, strict=True)
    ]
    found = smooth_svm(torch.from_numpy(scores), torch.from_numpy(targets))
    assert found.item() == pytest.approx(np.mean(expected))


def test_clam_labels_tiles_of_small_bags():
    """A bag's only tile is of its class; of three tiles, one is and one is not."""
    model = ClamSb(WIDTH, 2, hidden=WIDTH)
    for tiles, labelled in ((1, 1), (3, 2), (16, 16), (50, 16)):
        output = model.pool(bag(tiles))
        own = output.instance_logits[:, 1].detach().clone().requires_grad_()
        scores = torch.stack([output.instance_logits[:, 0].detach(), own], dim=1)
        model.tile_loss(output._replace(instance_logits=scores), 1).backward()
        assert int((own.grad != 0).any(1).sum()) == labelled


def test_dsmil_loss_is_the_mean_of_both_streams():
    model = Dsmil(WIDTH, 3, hidden=WIDTH)
    embedded = bag()
    output = model.pool(embedded)
    attention = model.attend(embedded, output.instance_logits.argmax(0))
    streams = [output.instance_logits.amax(0), model.by_likeness(attention, embedded)]
    entropy = torch.nn.functional.cross_entropy
    target = torch.tensor(2)
    expected = sum(entropy(stream[None], target[None]) for stream in streams) / 2
    torch.testing.assert_close(model.loss(output, target, entropy), expected)
