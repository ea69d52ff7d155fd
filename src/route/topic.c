/*
 * Topic exchanges: a trie over the words of the patterns.
 *
 * Keys and patterns are words joined by dots; the empty key has no words, "." has two empty ones.
 * In a pattern `*` stands for one word, `#` for any number of them. Each pattern is a path from the
 * root; its last node has the bindings.
 *
 * A key is matched like by an automaton: word after word, with the list of all nodes that the words
 * so far can lead to. From a node, a word leads to the child of that word, to the child `*`, and,
 * in a node that was reached through `#`, to the node itself. A node's child `#` may stand for no
 * word: it is active whenever the node is. A node is in the list of a position once however many
 * ways lead there, so a match costs at most nodes x words, and only active nodes are looked at. The
 * lists are links inside the nodes: nothing is allocated, nothing recurses.
 */
#include "route/route_private.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

#define WORD_MAX 255u

struct topic_node {
    struct topic_node *parent, *star, *hash;
    struct list link; /* index.nodes */
    uint64_t id;
    uint32_t literal_count; /* children by word: in index.words */
    bool is_hash;
    struct binding_set set;

    /* While matching: the step at which it was last active; the lists of this position and the
     * next. */
    uint64_t active_step;
    struct topic_node *active_next[2];

    uint16_t key_size; /* 0: root, `*`, `#` */
    uint8_t key[];     /* the parent's id and the word: the key in index.words */
};

/* Takes the first word off; false when there are none left. `more` starts as key.size > 0. */
static bool next_word(struct slice *key, bool *more, struct slice *word)
{
    if (!*more)
        return false;
    const uint8_t *dot = key->size ? memchr(key->data, '.', key->size) : NULL;
    *word = slice_of(key->data, dot ? (size_t)(dot - key->data) : key->size);
    *more = dot != NULL;
    if (dot)
        *key = slice_of(dot + 1, key->size - word->size - 1);
    return true;
}

/* ---- the trie ---- */

struct word_key {
    uint8_t bytes[8 + WORD_MAX];
    size_t size;
};

static void word_key(struct word_key *key, const struct topic_node *parent, struct slice word)
{
    store_le64(key->bytes, parent->id);
    if (word.size)
        memcpy(key->bytes + 8, word.data, word.size);
    key->size = 8 + word.size;
}

static struct topic_node *find_child(const struct topic_index *index,
                                     const struct topic_node *parent, struct slice word)
{
    struct word_key key;

    if (parent->literal_count == 0 || word.size > WORD_MAX)
        return NULL;
    word_key(&key, parent, word);
    return map_get(&index->words, slice_of(key.bytes, key.size));
}

static struct topic_node *node_new(struct topic_index *index, struct topic_node *parent,
                                   size_t key_size)
{
    struct topic_node *node = memory_new(sizeof *node + key_size);

    node->parent = parent;
    node->id = ++index->node_id_last;
    node->key_size = (uint16_t)key_size;
    list_append(&index->nodes, &node->link);
    return node;
}

static struct topic_node *child(struct topic_index *index, struct topic_node *parent,
                                struct slice word)
{
    if (slice_is(word, "*")) {
        if (!parent->star)
            parent->star = node_new(index, parent, 0);
        return parent->star;
    }
    if (slice_is(word, "#")) {
        if (!parent->hash) {
            parent->hash = node_new(index, parent, 0);
            parent->hash->is_hash = true;
        }
        return parent->hash;
    }
    struct topic_node *node = find_child(index, parent, word);
    if (!node) {
        struct word_key key;
        ASSERT(word.size <= WORD_MAX);
        word_key(&key, parent, word);
        node = node_new(index, parent, key.size);
        memcpy(node->key, key.bytes, key.size);
        map_put(&index->words, slice_of(node->key, key.size), node);
        parent->literal_count++;
    }
    return node;
}

/* Frees the node if it leads nowhere, then its parent for the same reason, and so on. */
static void prune(struct topic_index *index, struct topic_node *node)
{
    while (node->parent && node->set.count == 0 && node->literal_count == 0 && !node->star &&
           !node->hash) {
        struct topic_node *parent = node->parent;
        if (parent->star == node) {
            parent->star = NULL;
        } else if (parent->hash == node) {
            parent->hash = NULL;
        } else {
            map_remove(&index->words, slice_of(node->key, node->key_size));
            parent->literal_count--;
        }
        list_remove(&node->link);
        binding_set_fini(&node->set);
        free(node);
        node = parent;
    }
}

static void topic_init(struct route_exchange *exchange)
{
    struct topic_index *index = &exchange->index.topic;

    map_init_bytes(&index->words, exchange->table->seed);
    list_init(&index->nodes);
    index->root = node_new(index, NULL, 0);
}

static void topic_fini(struct route_exchange *exchange)
{
    struct topic_index *index = &exchange->index.topic;

    ASSERT(index->nodes.next == &index->root->link && index->nodes.previous == &index->root->link);
    binding_set_fini(&index->root->set);
    free(index->root);
    map_fini(&index->words);
}

static void topic_add(struct route_exchange *exchange, struct binding *binding)
{
    struct topic_index *index = &exchange->index.topic;
    struct topic_node *node = index->root;
    struct slice pattern = binding_key(binding), word;
    bool more = pattern.size > 0;

    while (next_word(&pattern, &more, &word))
        node = child(index, node, word);
    binding->place = node;
    binding_set_add(&node->set, binding);
}

static void topic_remove(struct route_exchange *exchange, struct binding *binding)
{
    struct topic_node *node = binding->place;

    binding_set_remove(&node->set, binding);
    prune(&exchange->index.topic, node);
}

/* ---- matching ---- */

/* Puts the node on the list of that step, with what its `#` children give for no word. */
static void activate(struct topic_node *node, uint64_t step, struct topic_node **list)
{
    while (node && node->active_step != step) {
        node->active_step = step;
        node->active_next[step & 1] = *list;
        *list = node;
        node = node->hash;
    }
}

static void topic_match(struct route_exchange *exchange, struct slice key, struct match *match)
{
    struct topic_index *index = &exchange->index.topic;
    struct topic_node *active = NULL;
    struct slice word;
    bool more = key.size > 0;

    activate(index->root, ++index->step, &active);
    while (active && next_word(&key, &more, &word)) {
        uint64_t step = index->step++;
        struct topic_node *next = NULL;
        for (struct topic_node *node = active; node; node = node->active_next[step & 1]) {
            activate(find_child(index, node, word), step + 1, &next);
            activate(node->star, step + 1, &next);
            if (node->is_hash)
                activate(node, step + 1, &next);
        }
        active = next;
    }
    for (struct topic_node *node = active; node; node = node->active_next[index->step & 1])
        match_set(match, &node->set);
}

/* ---- invariants ---- */

static void node_check(const struct topic_index *index, const struct topic_node *node)
{
    ASSERT(node->active_step <= index->step);
    ASSERT(node->id <= index->node_id_last);
    if (!node->parent) {
        ASSERT(node == index->root);
        return;
    }
    ASSERT(node->set.count > 0 || node->literal_count > 0 || node->star || node->hash);
    if (node->key_size) {
        ASSERT(load_le64(node->key) == node->parent->id && !node->is_hash);
        ASSERT(map_get(&index->words, slice_of(node->key, node->key_size)) == node);
    } else {
        ASSERT((node->is_hash ? node->parent->hash : node->parent->star) == node);
    }
}

static size_t topic_check(const struct route_exchange *exchange)
{
    const struct topic_index *index = &exchange->index.topic;
    size_t count = 0, words = 0, literals = 0;

    for (struct list *link = index->nodes.next; link != &index->nodes; link = link->next) {
        const struct topic_node *node = CONTAINER_OF(link, struct topic_node, link);
        node_check(index, node);
        binding_set_check(&node->set, exchange);
        for (uint32_t i = 0; i < node->set.count; i++)
            ASSERT(node->set.entries[i].binding->place == node);
        count += node->set.count;
        literals += node->literal_count;
        words += node->key_size > 0;
    }
    ASSERT(words == literals && words == map_count(&index->words));
    return count;
}

const struct exchange_functions topic_functions = {
    .name = "topic",
    .by_key = true,
    .init = topic_init,
    .fini = topic_fini,
    .add = topic_add,
    .remove = topic_remove,
    .match = topic_match,
    .check = topic_check,
};
