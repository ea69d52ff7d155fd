/* Tables of JSON objects, a row each. */
#ifndef SLUICE_CTL_TABLE_H
#define SLUICE_CTL_TABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

struct table_column {
    const char *title, *name; /* name: of the member that is shown; "-" where there is none */
    bool is_number;
};

#define TABLE_COLUMNS_MAX 16u

/* On a terminal lines are cut where it ends. Control bytes are shown as `?`. */
void table_print(const struct table_column *columns, size_t count, const json_t *rows, FILE *out);

#endif
