"""Whatever a session does: an event is published if its order is in the database."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session, sessionmaker

from tests.helpers import open_shop
from tests.transactions.support import Order, Work, open_engine, stored


class Machine(RuleBasedStateMachine):
    """One thread with one session, which places orders and tells of each.

    The database is the model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open = ExitStack()
        self.shop = self.open.enter_context(open_shop())
        self.engine = self.open.enter_context(open_engine("sqlite://"))
        registry = scoped_session(sessionmaker(self.engine))
        self.shop.events.bind_session(registry)
        self.session: Session = registry()
        self.work = Work(self.shop, self.session)
        self.savepoints: list[SessionTransaction] = []
        self.number = 0

    @rule(how=st.sampled_from(["flushed", "unflushed", "told before"]))
    def place(self, how: str) -> None:
        self.number += 1
        sku = str(self.number)
        if how == "told before":
            # Otherwise the event would belong to no transaction.
            self.work.read()
            self.work.tell(sku)
        self.session.add(Order(sku=sku))
        if how == "flushed":
            self.session.flush()
        if how != "told before":
            self.work.tell(sku)

    @rule()
    def fail_to_flush(self) -> None:
        skus = self.work.read()
        if not skus:
            return
        self.session.expunge_all()
        self.session.add(Order(sku=skus[0]))
        with pytest.raises(IntegrityError):
            self.session.flush()
        # What the database has rolled back is the innermost.
        if self.savepoints:
            self.savepoints.pop().rollback()
        else:
            self.session.rollback()

    @rule(places=st.booleans())
    def begin_a_savepoint(self, places: bool) -> None:
        self.savepoints.append(self.session.begin_nested())
        if places:
            self.place("flushed")

    @precondition(lambda self: self.savepoints)
    @rule(how=st.sampled_from(["commit", "rollback"]), innermost=st.booleans())
    def end_savepoints(self, how: str, innermost: bool) -> None:
        ended = self.savepoints[-1 if innermost else 0 :]
        getattr(ended[0], how)()
        del self.savepoints[-len(ended) :]

    @rule(how=st.sampled_from(["commit", "rollback", "close"]))
    def end(self, how: str) -> None:
        getattr(self.session, how)()
        self.savepoints.clear()

    @rule()
    def publish(self) -> None:
        self.shop.events.publish()

    def teardown(self) -> None:
        with self.open:
            self.session.close()
            self.shop.events.publish()
            published = Counter(self.shop.sent())
            assert published == Counter(stored(self.engine))
            ended = self.shop.books().keys()
            assert ended <= {"confirmed", "discarded"}


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
