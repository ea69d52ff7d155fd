/*
 * A doubly linked list through members of its elements. A link that is in no list points to itself,
 * so list_remove() may be called twice. The list owns nothing.
 */
#ifndef SLUICE_BASE_LIST_H
#define SLUICE_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next;
    struct list *previous;
};

static inline void list_init(struct list *l)
{
    l->next = l->previous = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

/* Of an element's link: is it in some list? */
static inline bool list_linked(const struct list *l)
{
    return l->next != l;
}

static inline void list_insert_before(struct list *place, struct list *link)
{
    link->next = place;
    link->previous = place->previous;
    place->previous->next = link;
    place->previous = link;
}

static inline void list_append(struct list *l, struct list *link)
{
    list_insert_before(l, link);
}

static inline void list_prepend(struct list *l, struct list *link)
{
    list_insert_before(l->next, link);
}

static inline void list_remove(struct list *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
    list_init(link);
}

static inline struct list *list_first(const struct list *l)
{
    return list_empty(l) ? NULL : l->next;
}

static inline struct list *list_take_first(struct list *l)
{
    struct list *link = list_first(l);
    if (link)
        list_remove(link);
    return link;
}

/* All of `from` to the end of `to`; `from` is empty afterwards. */
static inline void list_move_all(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    list_init(from);
}

/* The element around its link. */
#define CONTAINER_OF(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* Each link of the list; the body may remove `item` itself, and nothing else. */
#define LIST_EACH(head, item)                                                                      \
    for (struct list *item = (head)->next, *item##_after = item->next; item != (head);             \
         item = item##_after, item##_after = item->next)

#endif
