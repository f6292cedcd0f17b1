import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.store import Dataset
from tasks.clean import CleanSettings, clean_dataset
from tasks.split import SplitSettings, assign, leave_out_untaught, split_dataset
from tests.datasets import make_dataset

SETTINGS = SplitSettings()


def columns(label, **given):
    n = len(label)
    base = {
        "keep": np.ones(n, bool),
        "label": np.asarray(label),
        "split": np.full(n, -1),
        "settled": np.full(n, -1),
        "group": np.arange(n),
        "era": np.zeros(n, int),
        "sha256": np.array([f"{i:064x}" for i in range(n)], object),
    }
    return base | {key: np.asarray(value) for key, value in given.items()}


def test_every_class_is_divided_in_the_same_shares():
    label = np.repeat([0, 1, 2], [100, 50, 10])
    use = assign(columns(label), SETTINGS)
    for of_class, n in enumerate((100, 50, 10)):
        counts = np.bincount(use[label == of_class], minlength=3)
        assert list(counts) == [0.7 * n, 0.1 * n, 0.2 * n]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), min_size=1),
    st.integers(0, 9),
)
def test_a_duplicate_group_stays_in_one_split(rows, seed):
    label = [pair[0] for pair in rows]
    key = [pair[0] * 100 + pair[1] for pair in rows]
    group = [key.index(k) for k in key]
    use = assign(columns(label, group=group), SplitSettings(seed=seed))
    assert all(len(set(use[np.asarray(group) == g])) == 1 for g in group)
    assert set(np.unique(np.asarray(label))) == set(np.asarray(label)[use == 0])


def test_a_given_split_is_kept_and_a_missing_val_is_carved_from_train():
    split = np.repeat([0, 2], [80, 20])
    use = assign(columns(np.tile([0, 1], 50), split=split), SETTINGS)
    assert (use[split == 2] == 2).all()
    assert np.bincount(use[split == 0]).tolist() == [72, 8]


def test_gallery_pictures_are_not_used():
    use = assign(columns([0, 1, 0, 1], split=[0, 0, 2, 3]), SETTINGS)
    assert use[3] == -1


def test_what_is_settled_stays_and_a_new_era_gets_a_test_split():
    label = np.tile([0, 1], 100)
    era = np.repeat([0, 1], 100)
    settled = np.where(era == 0, np.tile([0, 0, 2, 2], 50), -1)
    use = assign(columns(label, era=era, settled=settled), SETTINGS)
    assert (use[era == 0] == settled[era == 0]).all()
    assert np.bincount(use[era == 1]).tolist() == [70, 10, 20]


def test_a_new_copy_of_a_settled_test_image_is_no_training_image():
    settled = np.array([0, 2] * 10 + [-1, -1])
    group = np.arange(22)
    group[21] = 1
    use = assign(
        columns([0, 1] * 11, settled=settled, group=group, era=[0] * 20 + [1] * 2),
        SETTINGS,
    )
    assert use[21] == 2


def test_a_new_look_alike_of_a_training_image_trains():
    group = np.concatenate([np.arange(40), np.arange(40)])
    settled = np.array([0, 0, 2, 1] * 10 + [-1] * 40)
    era = np.repeat([0, 1], 40)
    use = assign(columns([0, 1] * 40, settled=settled, group=group, era=era), SETTINGS)
    assert (use[40:] == use[:40]).all()


def test_one_known_test_image_does_not_take_an_era_its_test_split():
    label = np.tile([0, 1], 100)
    era = np.repeat([0, 1], 100)
    settled = np.where(era == 0, np.tile([0, 0, 2, 2], 50), -1)
    group = np.arange(200)
    group[150] = 2
    use = assign(columns(label, era=era, settled=settled, group=group), SETTINGS)
    assert use[150] == 2
    assert (use[era == 1] == 2).sum() >= 20


def test_a_new_class_in_a_grown_folder_is_tested():
    label = np.repeat([0, 1, 2], 60)
    settled = np.where(label < 2, np.tile([0, 0, 2], 60), -1)
    use = assign(columns(label, settled=settled), SETTINGS)
    assert np.bincount(use[label == 2]).tolist() == [42, 6, 12]


def test_an_image_between_a_training_and_a_test_image_joins_the_test():
    settled = np.array([0, 2, 0, 2, -1])
    group = np.array([0, 0, 2, 3, 0])
    use = assign(
        columns([0, 0, 1, 1, 0], settled=settled, group=group, era=[0] * 4 + [1]),
        SETTINGS,
    )
    assert use.tolist() == [-1, 2, 0, 2, 2]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_group_is_ever_in_two_uses(data):
    n = data.draw(st.integers(1, 30))
    draw = lambda low, high: data.draw(  # noqa: E731
        st.lists(st.integers(low, high), min_size=n, max_size=n)
    )
    key = draw(0, 8)
    group = np.array([key.index(k) for k in key])
    era = np.sort(draw(0, 1))
    settled = np.where(era == 0, draw(-1, 2), -1)
    use = assign(columns(draw(0, 2), group=group, era=era, settled=settled), SETTINGS)
    assert all(len(set(use[(group == g) & (use >= 0)])) < 2 for g in group)


def test_growth_hardly_moves_old_images():
    label = np.zeros(1100, int)
    before = assign(columns(label[:1000]), SETTINGS)
    after = assign(columns(label), SETTINGS)
    assert (before != after[:1000]).mean() < 0.03


def test_dropped_and_unlabelled_images_are_unused():
    use = assign(
        columns([0, 0, 0, 0, -1], keep=[True, True, True, False, True]), SETTINGS
    )
    assert list(use[3:]) == [-1, -1]


def test_a_class_without_training_images_is_left_out_and_counted():
    use, left_out = leave_out_untaught(
        np.array([0, 0, 2, 2, 2], np.int8), np.array([0, 1, 1, 7, 7])
    )
    assert list(use) == [0, 0, 2, -1, -1]
    assert left_out == {7: 2}


def test_the_stage_names_classes_that_are_left_out(tmp_path):
    source = make_dataset(
        tmp_path,
        9,
        label=np.array([0, 1] * 4 + [2]),
        names="abc",
        split=np.array([0, 0, 0, 0, 0, 0, 2, 2, 2]),
    )
    ref = split_dataset(clean_dataset(source, CleanSettings()), SETTINGS)
    assert Dataset(ref).attributes["untaught"] == {"c": 1}
    assert Dataset(ref).column("use")[8] == -1
