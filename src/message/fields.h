/*
 * Attribute tables: the arguments of queues and bindings, the headers of messages, what a client
 * says of itself.
 *
 * One encoding serves the whole program, memory and disk alike: the field table of AMQP 0-9-1
 * (section 4.2.5.5, with the types as RabbitMQ uses them), without its 4-byte size in front. It is
 * the richest that the protocols here have; other protocols convert at their edge. Everything is
 * over borrowed bytes; nothing allocates but the builder.
 *
 * A table is checked once, at the edge, with fields_check(); all other functions may be given
 * unchecked bytes without harm (they end early), but their answers then mean nothing.
 *
 *   type  value                       type  value
 *   t     boolean, 1 byte             d     double, 8 bytes
 *   b     signed 8      B  unsigned 8     D     decimal: scale byte, 32 bits signed
 *   s     signed 16     u  unsigned 16    S     long string: 32-bit size, bytes
 *   I     signed 32     i  unsigned 32    x     byte array, same shape
 *   l, L  signed 64 (clients differ)      A     array: 32-bit size, values (type, value)
 *   f     float, 4 bytes                  T     timestamp, 64-bit seconds
 *   V     void                            F     table: 32-bit size, fields
 */
#ifndef SLUICE_MESSAGE_FIELDS_H
#define SLUICE_MESSAGE_FIELDS_H

#include "base/bytes.h"

#define FIELDS_DEPTH_MAX 64  /* tables and arrays inside each other */
#define FIELD_NAME_MAX   255 /* bytes; RabbitMQ's clients stay at 128 */

struct field {
    struct slice name; /* empty in arrays */
    uint8_t type;      /* the letter of the table above */
    union {
        bool boolean;       /* t */
        int64_t integer;    /* b B s u I i l L, T */
        double real;        /* f d */
        struct slice bytes; /* S x, and the inside of A and F */
        struct {
            uint8_t scale;
            int32_t value;
        } decimal;
    } value;
};

/* E_INVALID with the cause: an unknown type, a field that is longer than its table, nesting too
 * deep. Two fields of one name are no error: the later counts, as clients have it. Iterates, does
 * not recurse. */
int fields_check(struct slice table, struct failure *failure) MUST_CHECK;

/* Steps through a table (or, with fields_next_value, an array). Returns false at the end or where
 * the bytes break. */
bool fields_next(struct reader *reader, struct field *field);
bool fields_next_value(struct reader *reader, struct field *field);

/* The last field of that name, as RabbitMQ's clients would have it. */
bool fields_find(struct slice table, struct slice name, struct field *field);

/* Convenience for arguments: true when there is such a field of a fitting type. */
bool fields_text(struct slice table, const char *name, struct slice *text);
bool fields_integer(struct slice table, const char *name, int64_t *value);
bool fields_boolean(struct slice table, const char *name, bool *value);

/* Of whatever width: integers equal integers; S equals S; floats equal floats; tables and arrays
 * compare by bytes. */
bool field_equal(const struct field *a, const struct field *b);

/* One of the integers b B s u I i l L (a timestamp is none). */
bool field_is_integer(const struct field *field);

/* For error texts, RabbitMQ's words: "signedint"; "10"; "the value '10' of type 'signedint'". Cut
 * at the size, always ended by a 0. Both return `text`. */
const char *field_type_name(const struct field *field);
const char *field_value_text(const struct field *field, char *text, size_t size);
const char *field_describe(const struct field *field, char *text, size_t size);

/* Do both have the same fields, whatever their order? On false `*name` is the first that differs,
 * in the order of names. Cost: n log n, so that a client's large tables do not hold the worker up.
 * Allocates when they have more than 32 fields. */
bool fields_equal(struct slice a, struct slice b, struct slice *name);

/* Equal for tables that fields_equal() finds equal. Same cost. */
uint64_t fields_hash(struct slice table, uint64_t seed);

/* ---- builder: appends to a writer (base/bytes.h), which tells whether there was room ---- */

void fields_put_boolean(struct writer *w, const char *name, bool value);
void fields_put_integer(struct writer *w, const char *name, int64_t value); /* type l */
void fields_put_text(struct writer *w, const char *name, struct slice value);
void fields_put(struct writer *w, const struct field *field); /* any type, under field->name */

/* A table inside (type F): begin returns a mark for end. Same for arrays (type A; values by
 * fields_put_value). Without a name (NULL) it is a value of an array. */
size_t fields_begin(struct writer *w, const char *name, uint8_t type);
void fields_end(struct writer *w, size_t mark);
void fields_put_value(struct writer *w, const struct field *field); /* in an array: no name */

#endif
