"""Shoppers follow their hidden tastes."""

from __future__ import annotations

import numpy as np

from tasks.catalogue_people import affinity, draw_log, draw_tastes, feature_ids
from tasks.catalogue_plan import plan
from tasks.catalogue_settings import CatalogueSettings

SETTINGS = CatalogueSettings(images=400, users=80, events=5000)
ITEMS = plan(SETTINGS, range(400))


def test_people_click_and_buy_what_they_like():
    people = draw_tastes(SETTINGS)
    log = draw_log(SETTINGS, ITEMS, people)
    ids = feature_ids(ITEMS)
    liked = affinity(people.tastes, log.user, ids[log.item])
    rng = np.random.default_rng(0)
    random = affinity(people.tastes, log.user, ids[rng.permutation(log.item)])
    assert liked.mean() > random.mean() + 1.0
    bought = log.event == 1
    assert liked[bought].mean() > liked[~bought].mean() + 0.3
    assert 0.05 < bought.mean() < 0.5


def test_the_log_has_the_events_asked_for_in_order_of_time():
    log = draw_log(SETTINGS, ITEMS, draw_tastes(SETTINGS))
    assert len(log.user) == SETTINGS.events
    assert (np.diff(log.time) >= np.timedelta64(0)).all()
    assert log.item.max() < len(ITEMS.rows)
    assert log.user.max() < SETTINGS.users


def test_a_purchase_follows_a_click_on_the_same_picture():
    log = draw_log(SETTINGS, ITEMS, draw_tastes(SETTINGS))
    seen = set()
    for user, item, event in zip(log.user, log.item, log.event, strict=True):
        if event:
            assert (user, item) in seen
        seen.add((user, item))


def test_no_users_or_no_pictures_give_an_empty_log():
    nobody = CatalogueSettings(users=0, events=10)
    assert len(draw_log(nobody, ITEMS, draw_tastes(nobody)).user) == 0
    none = ITEMS[np.zeros(400, bool)]
    assert len(draw_log(SETTINGS, none, draw_tastes(SETTINGS)).user) == 0


def test_users_keep_their_tastes_from_era_to_era_unless_they_drift():
    here = draw_tastes(SETTINGS)
    later = draw_tastes(SETTINGS.model_copy(update={"first": 400, "images": 50}))
    assert np.array_equal(here.tastes, later.tastes)
    moved = draw_tastes(SETTINGS.model_copy(update={"drift": 0.5}))
    assert not np.allclose(here.tastes, moved.tastes)


def test_users_of_one_persona_are_closer_than_others():
    people = draw_tastes(SETTINGS)
    close = np.corrcoef(people.tastes)
    same = people.persona[:, None] == people.persona[None]
    off = ~np.eye(len(close), dtype=bool)
    assert close[same & off].mean() > close[~same].mean() + 0.4
