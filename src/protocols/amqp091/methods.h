/*
 * Every method of AMQP 0-9-1 as RabbitMQ extends it, told once. From this list come the structs,
 * the numbers, the decoder and the encoder (codec.h), for both directions.
 *
 *   M(name, class, method, text, has content)      FIELDS_name(F): F(type, name) in wire order
 *
 *   octet 1 byte, word 2, long 4, longlong 8, bit (neighbouring bits share bytes), shortstr (size
 *   byte, UTF-8), longstr (32-bit size), table (32-bit size, message/fields.h)
 */
#ifndef SLUICE_AMQP091_METHODS_H
#define SLUICE_AMQP091_METHODS_H

/* clang-format off */
#define AMQP091_METHODS(M)                                                                         \
    M(connection_start,            10, 10,  "connection.start",            false)                  \
    M(connection_start_ok,         10, 11,  "connection.start_ok",         false)                  \
    M(connection_secure,           10, 20,  "connection.secure",           false)                  \
    M(connection_secure_ok,        10, 21,  "connection.secure_ok",        false)                  \
    M(connection_tune,             10, 30,  "connection.tune",             false)                  \
    M(connection_tune_ok,          10, 31,  "connection.tune_ok",          false)                  \
    M(connection_open,             10, 40,  "connection.open",             false)                  \
    M(connection_open_ok,          10, 41,  "connection.open_ok",          false)                  \
    M(connection_close,            10, 50,  "connection.close",            false)                  \
    M(connection_close_ok,         10, 51,  "connection.close_ok",         false)                  \
    M(connection_blocked,          10, 60,  "connection.blocked",          false)                  \
    M(connection_unblocked,        10, 61,  "connection.unblocked",        false)                  \
    M(connection_update_secret,    10, 70,  "connection.update_secret",    false)                  \
    M(connection_update_secret_ok, 10, 71,  "connection.update_secret_ok", false)                  \
    M(channel_open,                20, 10,  "channel.open",                false)                  \
    M(channel_open_ok,             20, 11,  "channel.open_ok",             false)                  \
    M(channel_flow,                20, 20,  "channel.flow",                false)                  \
    M(channel_flow_ok,             20, 21,  "channel.flow_ok",             false)                  \
    M(channel_close,               20, 40,  "channel.close",               false)                  \
    M(channel_close_ok,            20, 41,  "channel.close_ok",            false)                  \
    M(access_request,              30, 10,  "access.request",              false)                  \
    M(access_request_ok,           30, 11,  "access.request_ok",           false)                  \
    M(exchange_declare,            40, 10,  "exchange.declare",            false)                  \
    M(exchange_declare_ok,         40, 11,  "exchange.declare_ok",         false)                  \
    M(exchange_delete,             40, 20,  "exchange.delete",             false)                  \
    M(exchange_delete_ok,          40, 21,  "exchange.delete_ok",          false)                  \
    M(exchange_bind,               40, 30,  "exchange.bind",               false)                  \
    M(exchange_bind_ok,            40, 31,  "exchange.bind_ok",            false)                  \
    M(exchange_unbind,             40, 40,  "exchange.unbind",             false)                  \
    M(exchange_unbind_ok,          40, 51,  "exchange.unbind_ok",          false)                  \
    M(queue_declare,               50, 10,  "queue.declare",               false)                  \
    M(queue_declare_ok,            50, 11,  "queue.declare_ok",            false)                  \
    M(queue_bind,                  50, 20,  "queue.bind",                  false)                  \
    M(queue_bind_ok,               50, 21,  "queue.bind_ok",               false)                  \
    M(queue_purge,                 50, 30,  "queue.purge",                 false)                  \
    M(queue_purge_ok,              50, 31,  "queue.purge_ok",              false)                  \
    M(queue_delete,                50, 40,  "queue.delete",                false)                  \
    M(queue_delete_ok,             50, 41,  "queue.delete_ok",             false)                  \
    M(queue_unbind,                50, 50,  "queue.unbind",                false)                  \
    M(queue_unbind_ok,             50, 51,  "queue.unbind_ok",             false)                  \
    M(basic_qos,                   60, 10,  "basic.qos",                   false)                  \
    M(basic_qos_ok,                60, 11,  "basic.qos_ok",                false)                  \
    M(basic_consume,               60, 20,  "basic.consume",               false)                  \
    M(basic_consume_ok,            60, 21,  "basic.consume_ok",            false)                  \
    M(basic_cancel,                60, 30,  "basic.cancel",                false)                  \
    M(basic_cancel_ok,             60, 31,  "basic.cancel_ok",             false)                  \
    M(basic_publish,               60, 40,  "basic.publish",               true)                   \
    M(basic_return,                60, 50,  "basic.return",                true)                   \
    M(basic_deliver,               60, 60,  "basic.deliver",               true)                   \
    M(basic_get,                   60, 70,  "basic.get",                   false)                  \
    M(basic_get_ok,                60, 71,  "basic.get_ok",                true)                   \
    M(basic_get_empty,             60, 72,  "basic.get_empty",             false)                  \
    M(basic_ack,                   60, 80,  "basic.ack",                   false)                  \
    M(basic_reject,                60, 90,  "basic.reject",                false)                  \
    M(basic_recover_async,         60, 100, "basic.recover_async",         false)                  \
    M(basic_recover,               60, 110, "basic.recover",               false)                  \
    M(basic_recover_ok,            60, 111, "basic.recover_ok",            false)                  \
    M(basic_nack,                  60, 120, "basic.nack",                  false)                  \
    M(confirm_select,              85, 10,  "confirm.select",              false)                  \
    M(confirm_select_ok,           85, 11,  "confirm.select_ok",           false)                  \
    M(tx_select,                   90, 10,  "tx.select",                   false)                  \
    M(tx_select_ok,                90, 11,  "tx.select_ok",                false)                  \
    M(tx_commit,                   90, 20,  "tx.commit",                   false)                  \
    M(tx_commit_ok,                90, 21,  "tx.commit_ok",                false)                  \
    M(tx_rollback,                 90, 30,  "tx.rollback",                 false)                  \
    M(tx_rollback_ok,              90, 31,  "tx.rollback_ok",              false)

#define FIELDS_connection_start(F)                                                                 \
    F(octet, version_major) F(octet, version_minor) F(table, server_properties)                    \
    F(longstr, mechanisms) F(longstr, locales)
#define FIELDS_connection_start_ok(F)                                                              \
    F(table, client_properties) F(shortstr, mechanism) F(longstr, response) F(shortstr, locale)
#define FIELDS_connection_secure(F)           F(longstr, challenge)
#define FIELDS_connection_secure_ok(F)        F(longstr, response)
#define FIELDS_connection_tune(F)             F(word, channel_max) F(long, frame_max) F(word, heartbeat)
#define FIELDS_connection_tune_ok(F)          F(word, channel_max) F(long, frame_max) F(word, heartbeat)
#define FIELDS_connection_open(F)             F(shortstr, virtual_host) F(shortstr, capabilities) F(bit, insist)
#define FIELDS_connection_open_ok(F)          F(shortstr, known_hosts)
#define FIELDS_connection_close(F)                                                                 \
    F(word, reply_code) F(shortstr, reply_text) F(word, class_id) F(word, method_id)
#define FIELDS_connection_close_ok(F)
#define FIELDS_connection_blocked(F)          F(shortstr, reason)
#define FIELDS_connection_unblocked(F)
#define FIELDS_connection_update_secret(F)    F(longstr, new_secret) F(shortstr, reason)
#define FIELDS_connection_update_secret_ok(F)

#define FIELDS_channel_open(F)                F(shortstr, out_of_band)
#define FIELDS_channel_open_ok(F)             F(longstr, channel_id)
#define FIELDS_channel_flow(F)                F(bit, active)
#define FIELDS_channel_flow_ok(F)             F(bit, active)
#define FIELDS_channel_close(F)                                                                    \
    F(word, reply_code) F(shortstr, reply_text) F(word, class_id) F(word, method_id)
#define FIELDS_channel_close_ok(F)

#define FIELDS_access_request(F)                                                                   \
    F(shortstr, realm) F(bit, exclusive) F(bit, passive) F(bit, active) F(bit, write) F(bit, read)
#define FIELDS_access_request_ok(F)           F(word, ticket)

#define FIELDS_exchange_declare(F)                                                                 \
    F(word, ticket) F(shortstr, exchange) F(shortstr, type) F(bit, passive) F(bit, durable)        \
    F(bit, auto_delete) F(bit, internal) F(bit, no_wait) F(table, arguments)
#define FIELDS_exchange_declare_ok(F)
#define FIELDS_exchange_delete(F)                                                                  \
    F(word, ticket) F(shortstr, exchange) F(bit, if_unused) F(bit, no_wait)
#define FIELDS_exchange_delete_ok(F)
#define FIELDS_exchange_bind(F)                                                                    \
    F(word, ticket) F(shortstr, destination) F(shortstr, source) F(shortstr, routing_key)          \
    F(bit, no_wait) F(table, arguments)
#define FIELDS_exchange_bind_ok(F)
#define FIELDS_exchange_unbind(F)             FIELDS_exchange_bind(F)
#define FIELDS_exchange_unbind_ok(F)

#define FIELDS_queue_declare(F)                                                                    \
    F(word, ticket) F(shortstr, queue) F(bit, passive) F(bit, durable) F(bit, exclusive)           \
    F(bit, auto_delete) F(bit, no_wait) F(table, arguments)
#define FIELDS_queue_declare_ok(F)                                                                 \
    F(shortstr, queue) F(long, message_count) F(long, consumer_count)
#define FIELDS_queue_bind(F)                                                                       \
    F(word, ticket) F(shortstr, queue) F(shortstr, exchange) F(shortstr, routing_key)              \
    F(bit, no_wait) F(table, arguments)
#define FIELDS_queue_bind_ok(F)
#define FIELDS_queue_purge(F)                 F(word, ticket) F(shortstr, queue) F(bit, no_wait)
#define FIELDS_queue_purge_ok(F)              F(long, message_count)
#define FIELDS_queue_delete(F)                                                                     \
    F(word, ticket) F(shortstr, queue) F(bit, if_unused) F(bit, if_empty) F(bit, no_wait)
#define FIELDS_queue_delete_ok(F)             F(long, message_count)
#define FIELDS_queue_unbind(F)                                                                     \
    F(word, ticket) F(shortstr, queue) F(shortstr, exchange) F(shortstr, routing_key)              \
    F(table, arguments)
#define FIELDS_queue_unbind_ok(F)

#define FIELDS_basic_qos(F)                   F(long, prefetch_size) F(word, prefetch_count) F(bit, global)
#define FIELDS_basic_qos_ok(F)
#define FIELDS_basic_consume(F)                                                                    \
    F(word, ticket) F(shortstr, queue) F(shortstr, consumer_tag) F(bit, no_local) F(bit, no_ack)   \
    F(bit, exclusive) F(bit, no_wait) F(table, arguments)
#define FIELDS_basic_consume_ok(F)            F(shortstr, consumer_tag)
#define FIELDS_basic_cancel(F)                F(shortstr, consumer_tag) F(bit, no_wait)
#define FIELDS_basic_cancel_ok(F)             F(shortstr, consumer_tag)
#define FIELDS_basic_publish(F)                                                                    \
    F(word, ticket) F(shortstr, exchange) F(shortstr, routing_key) F(bit, mandatory)               \
    F(bit, immediate)
#define FIELDS_basic_return(F)                                                                     \
    F(word, reply_code) F(shortstr, reply_text) F(shortstr, exchange) F(shortstr, routing_key)
#define FIELDS_basic_deliver(F)                                                                    \
    F(shortstr, consumer_tag) F(longlong, delivery_tag) F(bit, redelivered) F(shortstr, exchange)  \
    F(shortstr, routing_key)
#define FIELDS_basic_get(F)                   F(word, ticket) F(shortstr, queue) F(bit, no_ack)
#define FIELDS_basic_get_ok(F)                                                                     \
    F(longlong, delivery_tag) F(bit, redelivered) F(shortstr, exchange) F(shortstr, routing_key)   \
    F(long, message_count)
#define FIELDS_basic_get_empty(F)             F(shortstr, cluster_id)
#define FIELDS_basic_ack(F)                   F(longlong, delivery_tag) F(bit, multiple)
#define FIELDS_basic_reject(F)                F(longlong, delivery_tag) F(bit, requeue)
#define FIELDS_basic_recover_async(F)         F(bit, requeue)
#define FIELDS_basic_recover(F)               F(bit, requeue)
#define FIELDS_basic_recover_ok(F)
#define FIELDS_basic_nack(F)                  F(longlong, delivery_tag) F(bit, multiple) F(bit, requeue)

#define FIELDS_confirm_select(F)              F(bit, no_wait)
#define FIELDS_confirm_select_ok(F)
#define FIELDS_tx_select(F)
#define FIELDS_tx_select_ok(F)
#define FIELDS_tx_commit(F)
#define FIELDS_tx_commit_ok(F)
#define FIELDS_tx_rollback(F)
#define FIELDS_tx_rollback_ok(F)
/* clang-format on */

#endif
