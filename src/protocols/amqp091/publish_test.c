/* Publishing, confirms, transactions. */
#include "protocols/amqp091/scenario.h"

#include <stdio.h>
#include <string.h>

/* ---- publishing ---- */

static void test_publish(const struct ways *ways)
{
    struct peer peer;
    static char body[20000];
    size_t parts[] = {0, 1000, 4096, 1};

    begin(&peer, ways);
    memset(body, 'b', sizeof body - 1);
    declare(&peer, 1, "a");
    uint64_t tag = 0;
    for (size_t i = 0; i < 4; i++) {
        size_t sizes[] = {0, 1, 16, 4096, 4097, parts[i] == 1 ? 100 : sizeof body - 1};
        for (size_t k = 0; k < 6; k++) {
            static const uint8_t properties[] = {0x90, 0, 4, 't', 'e', 'x', 't', 2};
            peer_publish(
                &peer, 1, &(struct basic_publish){.exchange = TEXT(""), .routing_key = TEXT("a")},
                slice_of(properties, sizeof properties), slice_of(body, sizes[k]), parts[i]);
            peer_run(&peer);
            struct method m =
                ASK(&peer, 1, basic_get_ok, basic_get, .queue = TEXT("a"), .no_ack = i % 2);
            assert_true(m.basic_get_ok.delivery_tag == ++tag);
            assert_true(slice_is(m.basic_get_ok.routing_key, "a"));
            expect_content(&peer, 1, slice_of(properties, sizeof properties),
                           slice_of(body, sizes[k]));
            expect_nothing(&peer);
        }
    }
    SAY(&peer, 1, basic_ack, .multiple = true);
    assert_true(worker.settled[OUTCOME_ACCEPT] == 12);
    ASK(&peer, 1, basic_get_empty, basic_get, .queue = TEXT("a"));
    end(&peer);
}

static void refuse_publish(struct peer *peer, const char *exchange, struct slice properties,
                           uint16_t code, const char *text)
{
    peer_publish(peer, 1, &(struct basic_publish){.exchange = TEXT(exchange)}, properties,
                 TEXT("body"), 0);
    peer_run(peer);
    expect_channel_close(peer, 1, code, text, METHOD_basic_publish);
}

static void test_publish_refused(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    worker.settings.message_size_max = 100;
    refuse_publish(&peer, "none", slice_of(NULL, 0), 404,
                   "NOT_FOUND - no exchange 'none' in vhost '/'");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x01\x00\x03"
                            "abc",
                            6),
                   406, "PRECONDITION_FAILED - invalid expiration 'abc': no_integer");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x01\x00\x03"
                            "12a",
                            6),
                   406, "PRECONDITION_FAILED - invalid expiration '12a': {leftover_string,\"a\"}");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x01\x00\x02"
                            "-1",
                            5),
                   406, "PRECONDITION_FAILED - invalid expiration '-1': {value_negative,-1}");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x01\x00\x0c"
                            "315360000001",
                            15),
                   406,
                   "PRECONDITION_FAILED - invalid expiration '315360000001': "
                   "{value_too_large,315360000001}");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x00\x10\x03"
                            "bob",
                            6),
                   406,
                   "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user "
                   "was 'guest'");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x02\x00\x15"
                            "amq.rabbitmq.reply-to",
                            24),
                   406, "PRECONDITION_FAILED - fast reply consumer does not exist");
    /* too large is refused when it is announced */
    peer_publish(&peer, 1, &(struct basic_publish){.exchange = TEXT("amq.fanout")},
                 slice_of(NULL, 0), slice_of(worker.last_line, 101), 50);
    peer_run(&peer);
    expect_channel_close(&peer, 1, 406,
                         "PRECONDITION_FAILED - message size 101 is larger than configured max "
                         "size 100",
                         METHOD_basic_publish);
    /* what is allowed */
    static const char *const good[] = {"\x01\x00\x01"
                                       "0",
                                       "\x00\x10\x05"
                                       "guest"};
    peer_publish(&peer, 1, &(struct basic_publish){.exchange = TEXT("amq.fanout")},
                 slice_of(good[0], 4), TEXT(""), 0);
    peer_publish(&peer, 1, &(struct basic_publish){.exchange = TEXT("amq.fanout")},
                 slice_of(good[1], 8), TEXT(""), 0);
    worker.impersonate = true;
    peer_publish(&peer, 1, &(struct basic_publish){.exchange = TEXT("amq.fanout")},
                 slice_of("\x00\x10\x03"
                          "bob",
                          6),
                 TEXT(""), 0);
    peer_run(&peer);
    expect_nothing(&peer);
    peer_publish(&peer, 1, &(struct basic_publish){.immediate = true}, slice_of(NULL, 0), TEXT(""),
                 0);
    peer_run(&peer);
    expect_connection_close(&peer, 540, "NOT_IMPLEMENTED - immediate=true", METHOD_basic_publish);
    end(&peer);
}

/* A content header's payload: class, weight, size, flags. */
static void break_content(const struct ways *ways, const void *bytes, size_t size, uint16_t code,
                          const char *text)
{
    struct peer peer;

    begin(&peer, ways);
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_basic_publish});
    peer_send(&peer, bytes, size);
    peer_run(&peer);
    expect_connection_close(&peer, code, text, METHOD_basic_publish);
    end(&peer);
}

static void test_content_errors(const struct ways *ways)
{
#define HEADER(class_id, body_size)                                                                \
    "\x02\0\x01\0\0\0\x0e\0" class_id "\0\0\0\0\0\0\0\0\0" body_size "\0\0\xce"
    break_content(ways, "\x03\0\x01\0\0\0\0\xce", 8, 505,
                  "UNEXPECTED_FRAME - expected content header for class 60, got non content "
                  "header frame instead");
    break_content(ways, HEADER("\x32", "\x01"), 22, 505,
                  "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 "
                  "instead");
    break_content(ways, HEADER("\x3c", "\x01") HEADER("\x3c", "\x01"), 44, 505,
                  "UNEXPECTED_FRAME - expected content body, got non content body frame instead");
    break_content(ways,
                  HEADER("\x3c", "\x01") "\x03\0\x01\0\0\0\x02"
                                         "ab\xce",
                  32, 501, "FRAME_ERROR - content body frame exceeds remaining content size");
    break_content(ways, "\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\x20\0\0\x01\0\0\xce", 22, 501,
                  "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size "
                  "536870912");
    break_content(ways, "\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\x80\0\xce", 22, 501,
                  "FRAME_ERROR - cannot decode the 2 bytes of a content header's properties");
}

static void test_mandatory(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    for (int i = 0; i < 2; i++) {
        peer_publish(&peer, 1,
                     &(struct basic_publish){.exchange = TEXT("amq.direct"),
                                             .routing_key = TEXT("k"),
                                             .mandatory = true},
                     slice_of(NULL, 0), TEXT("unroutable"), 3);
        peer_run(&peer);
        struct method m = expect(&peer, 1, METHOD_basic_return);
        assert_int_equal(m.basic_return.reply_code, 312);
        assert_true(slice_is(m.basic_return.reply_text, "NO_ROUTE"));
        assert_true(slice_is(m.basic_return.exchange, "amq.direct"));
        assert_true(slice_is(m.basic_return.routing_key, "k"));
        expect_content(&peer, 1, slice_of(NULL, 0), TEXT("unroutable"));
        if (i == 1) {
            /* the return comes before the confirm */
            m = expect(&peer, 1, METHOD_basic_ack);
            assert_true(m.basic_ack.delivery_tag == 1);
        }
        expect_nothing(&peer);
        if (i == 0)
            ASK_EMPTY(&peer, 1, confirm_select_ok, confirm_select);
    }
    end(&peer);
}

static void test_confirms(const struct ways *ways)
{
    struct peer peer;
    struct method m;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    SAY(&peer, 1, confirm_select, .no_wait = true);
    expect_nothing(&peer);
    ASK_EMPTY(&peer, 1, confirm_select_ok, confirm_select);
    publish(&peer, 1, "", "a", "1");
    m = expect(&peer, 1, METHOD_basic_ack);
    assert_true(m.basic_ack.delivery_tag == 1 && !m.basic_ack.multiple);
    worker.confirms_held = 1;
    for (int i = 0; i < 5; i++)
        publish(&peer, 1, "", "a", "more");
    worker.confirms_held = 0;
    peer_run(&peer);
    m = expect(&peer, 1, METHOD_basic_ack);
    assert_true(m.basic_ack.delivery_tag == 6 && m.basic_ack.multiple);
    worker.is_reject_publishes = true;
    publish(&peer, 1, "", "a", "7");
    m = expect(&peer, 1, METHOD_basic_nack);
    assert_true(m.basic_nack.delivery_tag == 7 && !m.basic_nack.multiple);
    SAY_EMPTY(&peer, 1, tx_select);
    expect_channel_close(&peer, 1, 406,
                         "PRECONDITION_FAILED - cannot switch from confirm to tx mode",
                         METHOD_tx_select);
    end(&peer);
}

static void test_carbon_copies(const struct ways *ways)
{
    struct peer peer;
    uint8_t headers[200], properties[220];

    begin(&peer, ways);
    declare(&peer, 1, "a");
    declare(&peer, 1, "b");
    declare(&peer, 1, "c");
    struct writer w = writer_of(headers, sizeof headers);
    struct field key = {.type = 'S'};
    size_t mark = fields_begin(&w, "CC", 'A');
    key.value.bytes = TEXT("b");
    fields_put_value(&w, &key);
    fields_end(&w, mark);
    size_t without_bcc = writer_size(&w);
    mark = fields_begin(&w, "BCC", 'A');
    key.value.bytes = TEXT("c");
    fields_put_value(&w, &key);
    fields_end(&w, mark);
    struct writer p = writer_of(properties, sizeof properties);
    write_be16(&p, AMQP091_HEADERS);
    write_be32(&p, (uint32_t)writer_size(&w));
    write_bytes(&p, slice_of(headers, writer_size(&w)));
    peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")},
                 slice_of(properties, writer_size(&p)), TEXT("copied"), 0);
    peer_run(&peer);
    p = writer_of(properties, sizeof properties);
    write_be16(&p, AMQP091_HEADERS);
    write_be32(&p, (uint32_t)without_bcc);
    write_bytes(&p, slice_of(headers, without_bcc));
    static const char *const names[] = {"a", "b", "c"};
    for (size_t i = 0; i < 3; i++) {
        ASK(&peer, 1, basic_get_ok, basic_get, .queue = TEXT(names[i]), .no_ack = true);
        expect_content(&peer, 1, slice_of(properties, writer_size(&p)), TEXT("copied"));
    }
    /* the wrong type */
    w = writer_of(headers, sizeof headers);
    fields_put_text(&w, "CC", TEXT("b"));
    p = writer_of(properties, sizeof properties);
    write_be16(&p, AMQP091_HEADERS);
    write_be32(&p, (uint32_t)writer_size(&w));
    write_bytes(&p, slice_of(headers, writer_size(&w)));
    peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")},
                 slice_of(properties, writer_size(&p)), TEXT("copied"), 0);
    peer_run(&peer);
    struct method m = expect(&peer, 1, METHOD_channel_close);
    assert_int_equal(m.channel_close.reply_code, 406);
    end(&peer);
}

/* ---- transactions ---- */

static void test_transactions(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    ASK_EMPTY(&peer, 1, tx_commit_ok, tx_commit);
    publish(&peer, 1, "", "a", "1");
    publish(&peer, 1, "", "a", "2");
    assert_true(fake_ready(fake_queue(&worker, "a")) == 0);
    ASK_EMPTY(&peer, 1, tx_rollback_ok, tx_rollback);
    publish(&peer, 1, "", "a", "3");
    peer_publish(&peer, 1,
                 &(struct basic_publish){.exchange = TEXT("amq.direct"), .mandatory = true},
                 slice_of(NULL, 0), TEXT("nobody"), 0);
    for (int i = 0; i < 40; i++)
        publish(&peer, 1, "", "a", "more");
    expect_nothing(&peer);
    SAY_EMPTY(&peer, 1, tx_commit);
    expect(&peer, 1, METHOD_basic_return);
    expect_content(&peer, 1, slice_of(NULL, 0), TEXT("nobody"));
    expect(&peer, 1, METHOD_tx_commit_ok);
    assert_true(fake_ready(fake_queue(&worker, "a")) == 41);

    ASK(&peer, 1, basic_qos_ok, basic_qos, .prefetch_count = 3);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"));
    expect_delivery(&peer, 1, 1, false, "3");
    expect_delivery(&peer, 1, 2, false, "more");
    expect_delivery(&peer, 1, 3, false, "more");
    SAY(&peer, 1, basic_ack, .delivery_tag = 2, .multiple = true);
    SAY(&peer, 1, basic_nack, .delivery_tag = 3, .requeue = true);
    expect_nothing(&peer); /* credit comes back with the commit */
    assert_true(worker.settled[OUTCOME_ACCEPT] == 0);
    ASK_EMPTY(&peer, 1, tx_rollback_ok, tx_rollback);
    SAY(&peer, 1, basic_ack, .delivery_tag = 1);
    SAY(&peer, 1, basic_reject, .delivery_tag = 2);
    ASK_EMPTY(&peer, 1, tx_commit_ok, tx_commit);
    assert_true(worker.settled[OUTCOME_ACCEPT] == 1 && worker.settled[OUTCOME_REJECT] == 1);
    expect_delivery(&peer, 1, 4, false, "more");
    expect_delivery(&peer, 1, 5, false, "more");
    expect_nothing(&peer);
    SAY(&peer, 1, basic_ack, .delivery_tag = 2);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - unknown delivery tag 2",
                         METHOD_basic_ack);

    /* a channel that ends in the middle gives back what it would have settled */
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    SAY(&peer, 1, basic_get, .queue = TEXT("a"));
    expect(&peer, 1, METHOD_basic_get_ok);
    expect_content(&peer, 1, slice_of(NULL, 0), slice_of("more", 4));
    SAY(&peer, 1, basic_ack, .delivery_tag = 1);
    publish(&peer, 1, "", "a", "never");
    publish(&peer, 1, "none", "a", "refused at once");
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no exchange 'none' in vhost '/'",
                         METHOD_basic_publish);
    assert_true(fake_ready(fake_queue(&worker, "a")) == 39);
    assert_true(fake_leased(fake_queue(&worker, "a")) == 0);

    /* carbon copies keep until the commit, too */
    static const char copies[] = "\x20\x00\x00\x00\x00\x0e\x02"
                                 "CCA\0\0\0\x06S\0\0\0\x01"
                                 "b";
    declare(&peer, 1, "b");
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("none")},
                 slice_of(copies, 20), TEXT("copied"), 0);
    ASK_EMPTY(&peer, 1, tx_commit_ok, tx_commit);
    assert_true(fake_ready(fake_queue(&worker, "b")) == 1);
    ASK(&peer, 1, channel_close_ok, channel_close, .reply_code = 200);
    ASK_EMPTY(&peer, 1, channel_open_ok, channel_open);

    SAY_EMPTY(&peer, 1, tx_commit);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - channel is not transactional",
                         METHOD_tx_commit);
    SAY_EMPTY(&peer, 1, tx_rollback);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - channel is not transactional",
                         METHOD_tx_rollback);
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    SAY_EMPTY(&peer, 1, confirm_select);
    expect_channel_close(&peer, 1, 406,
                         "PRECONDITION_FAILED - cannot switch from tx to confirm mode",
                         METHOD_confirm_select);
    end(&peer);
}

int main(void)
{
    static const struct scenario scenarios[] = {
        {"publish", test_publish},
        {"publish_refused", test_publish_refused},
        {"content_errors", test_content_errors},
        {"mandatory", test_mandatory},
        {"confirms", test_confirms},
        {"carbon_copies", test_carbon_copies},
        {"transactions", test_transactions},
    };
    return run_scenarios(scenarios, sizeof scenarios / sizeof scenarios[0]);
}
