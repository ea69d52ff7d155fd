#include "ctl/table.h"

#include <assert.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define WIDTH_ANY 1000000

/* As it is shown; "-": it is not known. Numbers are written into `number`. */
static const char *cell(const json_t *row, const struct table_column *column, char number[24])
{
    const json_t *value = json_object_get(row, column->name);

    if (json_is_string(value))
        return json_string_value(value);
    if (!json_is_integer(value))
        return "-";
    snprintf(number, 24, "%lld", (long long)json_integer_value(value));
    return number;
}

/* Control bytes of a name would move the cursor: they are shown as `?`. Returns how many characters
 * it takes (of UTF-8; each one column), of which at most `most` are written. */
static int put_text(const char *text, int most, FILE *out)
{
    int width = 0;

    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        width += (c & 0xc0) != 0x80;
        if (width > most)
            return most;
        if (out)
            fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
    }
    return width;
}

static int width_of(const char *text)
{
    return put_text(text, WIDTH_ANY, NULL);
}

/* left: columns of the line, of which it takes some. */
static void put_cell(const char *text, int width, bool is_number, bool is_last, int *left,
                     FILE *out)
{
    int blank = width - width_of(text);

    if (*left <= 0)
        return;
    if (is_number)
        fprintf(out, "%*s", blank < *left ? blank : *left, "");
    put_text(text, is_number ? *left - blank : *left, out);
    *left -= width + 2;
    if (!is_last && *left > 0)
        fprintf(out, "%*s", is_number ? 2 : blank + 2, "");
}

/* Of a line; what is no terminal takes lines of any length. */
static int line_width(FILE *out)
{
    struct winsize size;

    if (!isatty(fileno(out)) || ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return WIDTH_ANY;
    return size.ws_col;
}

void table_print(const struct table_column *columns, size_t count, const json_t *rows, FILE *out)
{
    int widths[TABLE_COLUMNS_MAX], width = line_width(out);
    char number[24];
    const json_t *row;
    size_t i;

    assert(count <= TABLE_COLUMNS_MAX);
    for (size_t c = 0; c < count; c++) {
        widths[c] = (int)strlen(columns[c].title);
        json_array_foreach(rows, i, row)
        {
            int own = width_of(cell(row, &columns[c], number));
            widths[c] = own > widths[c] ? own : widths[c];
        }
    }
    int left = width;
    for (size_t c = 0; c < count; c++)
        put_cell(columns[c].title, widths[c], columns[c].is_number, c + 1 == count, &left, out);
    fputc('\n', out);
    json_array_foreach(rows, i, row)
    {
        left = width;
        for (size_t c = 0; c < count; c++)
            put_cell(cell(row, &columns[c], number), widths[c], columns[c].is_number,
                     c + 1 == count, &left, out);
        fputc('\n', out);
    }
}
