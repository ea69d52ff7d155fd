/*
 * For the tests of the session: a conversation with it, told in few words, and every scenario run
 * in many ways: all requests answered at once, all PENDING, and mixed by seed; with its input in
 * one piece, byte by byte, and in odd pieces.
 */
#ifndef SLUICE_AMQP091_SCENARIO_H
#define SLUICE_AMQP091_SCENARIO_H

#include "message/amqp091_properties.h"
#include "protocols/amqp091/test_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct ways {
    uint64_t seed;
    unsigned pending_percent;
    size_t step;
};

struct scenario {
    const char *name;
    void (*run)(const struct ways *ways);
};

/* As a group of cmocka. At most SCENARIOS_MAX. */
#define SCENARIOS_MAX 32u
int run_scenarios(const struct scenario *scenarios, size_t count);

/* The broker of the scenario that runs. */
extern struct worker worker;

struct method next(struct peer *peer, uint16_t channel);

struct method expect(struct peer *peer, uint16_t channel, uint32_t id);

void expect_nothing(struct peer *peer);

/* Sends and runs. */
void say(struct peer *peer, uint16_t channel, const struct method *method);

struct method ask(struct peer *peer, uint16_t channel, const struct method *method,
                  uint32_t answer);

void check_close(uint16_t code, struct slice text, uint16_t class_id, uint16_t method_id,
                 uint16_t wanted_code, const char *wanted_text, uint32_t wanted_method);

/* The channel is closed so; it is used again afterwards, which shows that it is free. */
void expect_channel_close(struct peer *peer, uint16_t channel, uint16_t code, const char *text,
                          uint32_t method_id);

void expect_connection_close(struct peer *peer, uint16_t code, const char *text,
                             uint32_t method_id);

void close_ok(struct peer *peer);

void send_header(struct peer *peer);

size_t capabilities(uint8_t *memory, size_t size, bool value);

void log_in(struct peer *peer, bool capable);

void open_connection(struct peer *peer, const struct ways *ways, bool capable);

void begin(struct peer *peer, const struct ways *ways);

void end(struct peer *peer);

void declare(struct peer *peer, uint16_t channel, const char *name);

void publish(struct peer *peer, uint16_t channel, const char *exchange, const char *key,
             const char *body);

/* Header and body of a content. */
void expect_content(struct peer *peer, uint16_t channel, struct slice properties,
                    struct slice body);

void expect_delivery(struct peer *peer, uint16_t channel, uint64_t tag, bool redelivered,
                     const char *body);

/* SAY(&peer, 1, basic_ack, .delivery_tag = 7) sends; ASK(&peer, 1, basic_qos_ok, basic_qos, ...)
 * expects that answer, too, and is it. The _EMPTY ones are for methods without arguments. */
#define TEXT(text) slice_text(text)
#define SAY(peer, channel, name, ...)                                                              \
    say(peer, channel, &(struct method){.id = METHOD_##name, .name = {__VA_ARGS__}})
#define SAY_EMPTY(peer, channel, name) say(peer, channel, &(struct method){.id = METHOD_##name})
#define ASK(peer, channel, answer, name, ...)                                                      \
    ask(peer, channel, &(struct method){.id = METHOD_##name, .name = {__VA_ARGS__}},               \
        METHOD_##answer)
#define ASK_EMPTY(peer, channel, answer, name)                                                     \
    ask(peer, channel, &(struct method){.id = METHOD_##name}, METHOD_##answer)

#endif
