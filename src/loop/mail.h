/*
 * Mail: how the workers of a process speak with each other.
 *
 * The members of an *office*, one for each loop, write *letters* to each other. All letters of a
 * turn to the same member make one *parcel*, which goes off in the FLUSH phase: one hand-over and
 * at most one wake-up, however many letters. Letters from one member to another arrive in order,
 * exactly once, in a later turn of the receiver. Between letters of different senders there is no
 * order.
 *
 * Nothing is refused and nothing blocks here. What bounds mail is that its writers have paid in
 * advance: with credit, with a lease, with a request whose answer has its slot.
 *
 * A parcel carries the *stamp* that its sender had when it went off (mailbox_stamp()). The receiver
 * is asked before it opens one, and may let it and all later ones of that member wait.
 *
 * Threads: office_new() and office_free() when no loop runs; everything else on the member's own
 * loop.
 */
#ifndef SLUICE_LOOP_MAIL_H
#define SLUICE_LOOP_MAIL_H

#include "loop/loop.h"

#define MAIL_MEMBERS_MAX 256u
#define MAIL_LETTER_MAX  (32u << 20) /* bytes of one letter; what is large goes as a buffer */
#define MAIL_RUN_MAX     8192u       /* bytes of a run of several items */

struct office;
struct mailbox;

struct mail_events {
    /* One letter, in a turn of the receiver. The bytes are good during the call, aligned to 8, and
     * the receiver's to write into. */
    void (*received)(void *context, unsigned from, unsigned kind, struct slice letter);

    /* May the next parcel of this member be opened? false: it waits for mailbox_retry(). NULL:
     * always. */
    bool (*accepts)(void *context, unsigned from, uint64_t stamp);

    /* Before a parcel's first letter and after its last. A long one is read over several turns, and
     * no other is opened meanwhile. NULL: nobody wants to know. */
    void (*opened)(void *context, unsigned from);
    void (*closed)(void *context, unsigned from);

    /* A letter that nobody will read, since the office ends: give back what it refers to. NULL:
     * letters refer to nothing. */
    void (*dropped)(void *context, unsigned kind, struct slice letter);
};

struct office *office_new(unsigned members);

/* All mailboxes are closed. Real loops are freed already: they hear the last bells then. */
void office_free(struct office *office);

/* The member's own box, on its loop; once in the office's life. Letters to a member that has not
 * opened yet wait for it. */
struct mailbox *mailbox_open(struct office *office, unsigned member, struct loop *loop,
                             const struct mail_events *events, void *context);

/* No event after this but `dropped`, which is called here for all that has arrived and was not
 * opened, and for what is written and has not gone off. What arrives later is dropped when the
 * office ends, with the events of whoever it was for (the table must stay; `context` is NULL
 * then), or its sender's when that one has never opened. May be called from within an event. The
 * loop stays until no other member runs any more: one of them may be about to ring it. */
void mailbox_close(struct mailbox *box);

unsigned mailbox_member(const struct mailbox *box);
unsigned mailbox_members(const struct mailbox *box);

/* Room for the bytes of a letter (not zeroed, aligned to 8), good until the next call for this box
 * or the end of the turn. Not to itself. */
void *mail_write(struct mailbox *box, unsigned to, unsigned kind, size_t size);

/* The same for an item of a *run*: a letter which is items one behind the other, each of them
 * aligned to 8. Items of one kind that follow each other become one letter, as long as that is not
 * above MAIL_RUN_MAX. */
void *mail_add(struct mailbox *box, unsigned to, unsigned kind, size_t size);

/* The last letter written to that member, while it is of that kind and has not gone off: for adding
 * to it. NULL otherwise. */
void *mail_last(struct mailbox *box, unsigned to, unsigned kind);

/* Parcels that go off from now on carry this stamp; 0 at first. */
void mailbox_stamp(struct mailbox *box, uint64_t stamp);

/* accepts() may say something else now. */
void mailbox_retry(struct mailbox *box);

struct mail_statistics {
    uint64_t letters_sent, parcels_sent, bytes_sent, letters_received, wakes;
};

const struct mail_statistics *mailbox_statistics(const struct mailbox *box);

#endif
