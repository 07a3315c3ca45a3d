"""DNS dialogues, read by dnspython."""

from collections import Counter

import dns.flags
import dns.message
import dns.rdatatype
import pytest
from exchanges import datagram_exchanges, exchange, stream_exchanges, streams
from hypothesis import given, settings
from hypothesis import strategies as st

from netdiff_ray.dialogue import dns as written_dns


def written(messages, **choices):
    made = exchange(messages, server_port=53, **choices)
    return [dns.message.from_wire(data) for data in written_dns.write(made)]


@settings(max_examples=300, deadline=None)
@given(asked=st.integers(19, 300), more=st.integers(13, 600), seed=st.integers(0, 2**64 - 1))
def test_answers_repeat_the_question_and_hold_records(asked, more, seed):
    question, answer = written([(0, asked), (1, asked + more)], seed=seed)
    assert answer.question == question.question
    assert answer.id == question.id
    assert question.flags & dns.flags.QR == 0
    assert answer.flags & dns.flags.QR
    assert answer.answer or answer.authority
    asked_type = question.question[0].rdtype
    kinds = {records.rdtype for records in answer.answer}
    fitting = {asked_type, dns.rdatatype.CNAME, dns.rdatatype.TXT}
    assert kinds <= fitting


@pytest.mark.parametrize("apart", [-20, -13, -5, -1, 0, 1, 2, 11, 12])
def test_answers_of_nearly_the_length_of_the_question_repeat_it(apart):
    question, answer = written([(0, 70), (1, 70 + apart)])
    assert answer.question == question.question


@pytest.mark.parametrize("length", [17, *range(19, 600), 1500, 4000])
def test_a_question_of_any_length_is_one_question(length):
    (question,) = written([(0, length)])
    assert len(question.question) == 1


def test_questions_in_flight_are_answered_in_turn():
    asked = [(0, 40), (0, 40), (0, 45)]
    messages = written([*asked, (1, 56), (1, 68), (1, 77)])
    for question, answer in zip(messages[:3], messages[3:], strict=True):
        assert question.question == answer.question
        assert question.id == answer.id
    assert messages[0].question[0].name == messages[1].question[0].name


def test_about_as_many_answers_hold_records_as_real_ones():
    held = Counter()
    for seed in range(300):
        _, answer = written([(0, 40), (1, 40 + 76)], seed=seed)
        held[bool(answer.answer)] += 1
    assert 0.2 < held[True] / 300 < 0.6


@settings(max_examples=100, deadline=None)
@given(made=datagram_exchanges(st.integers(19, 1500)))
def test_other_orders_hold_whole_headers(made):
    for side, data in zip(made.sides, written_dns.write(made), strict=True):
        message = dns.message.from_wire(data, ignore_trailing=True)
        assert bool(message.flags & dns.flags.QR) == (side == 1)
        assert len(message.question) == 1 or len(data) < 60


@pytest.mark.parametrize("length", [46, 50, 100, 300, 1500])
def test_multicast_has_services(length):
    made = exchange([(0, length), (1, length)], server_port=5353, client_port=5353)
    asked, offered = (dns.message.from_wire(data) for data in written_dns.write(made))
    assert asked.id == offered.id == 0
    assert offered.flags & dns.flags.AA
    assert not offered.question


@settings(max_examples=100, deadline=None)
@given(made=stream_exchanges(st.integers(60, 40_000)))
def test_streams_hold_messages_behind_their_lengths(made):
    for side, stream in enumerate(streams(written_dns.write(made), made.sides)):
        at = 0
        while at < len(stream):
            end = at + 2 + int.from_bytes(stream[at : at + 2])
            message = dns.message.from_wire(stream[at + 2 : end], ignore_trailing=True)
            assert bool(message.flags & dns.flags.QR) == (side == 1)
            at = end
