/*
 * AMQP 0-9-1 as RabbitMQ extends it: the protocol's table for main.c. Its context is the struct
 * worker whose connections it serves.
 */
#ifndef SLUICE_AMQP091_SESSION_H
#define SLUICE_AMQP091_SESSION_H

#include "net/protocol.h"

extern const struct protocol amqp091_protocol;

#endif
