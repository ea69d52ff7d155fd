#include "ctl/api.h"

#include "base/memory.h"

#include <curl/curl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define ANSWER_MAX         (1u << 30) /* bytes */
#define CONNECT_PATIENCE_S 10L

struct api {
    const struct api_options *options;
    CURL *curl;
    char error[CURL_ERROR_SIZE];
};

struct bytes {
    char *data;
    size_t size;
};

int api_open(const struct api_options *options, struct api **api, struct failure *failure)
{
    struct api *made = memory_new(sizeof *made);

    made->options = options;
    made->curl = curl_easy_init();
    if (!made->curl) {
        free(made);
        return fail(failure, E_MEMORY, "libcurl cannot be used");
    }
    curl_easy_setopt(made->curl, CURLOPT_ERRORBUFFER, made->error);
    *api = made;
    return 0;
}

void api_close(struct api *api)
{
    curl_easy_cleanup(api->curl);
    free(api);
}

/* ---- a request ---- */

static size_t take(char *part, size_t one, size_t size, void *context)
{
    struct bytes *bytes = context;

    (void)one; /* always 1 */
    if (size > ANSWER_MAX - bytes->size)
        return 0;
    bytes->data = memory_resize(bytes->data, bytes->size + size + 1, 1);
    memcpy(bytes->data + bytes->size, part, size);
    bytes->size += size;
    bytes->data[bytes->size] = 0;
    return size;
}

/* "http://HOST:PORT/api/PATH" with the words in their places; the caller frees it. */
static char *url_of(const struct api *api, const char *path, const char *const *words)
{
    const char *host = api->options->host;
    bool is_ipv6 = strchr(host, ':') && host[0] != '[';
    char *url = NULL;
    size_t size;
    FILE *out = open_memstream(&url, &size);

    if (!out)
        return NULL;
    fprintf(out, is_ipv6 ? "http://[%s]:%u/api/" : "http://%s:%u/api/", host, api->options->port);
    for (; *path; path++) {
        if (*path != '*') {
            fputc(*path, out);
            continue;
        }
        char *word = curl_easy_escape(api->curl, *words, 0);
        fputs(word ? word : "", out);
        curl_free(word);
        words++;
    }
    fclose(out);
    return url;
}

static CURLcode perform(struct api *api, const char *method, const char *url, const char *body,
                        struct bytes *came, long *status)
{
    struct curl_slist *headers = curl_slist_append(NULL, "content-type: application/json");
    CURL *curl = api->curl;

    curl_easy_reset(curl);
    api->error[0] = 0;
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, api->error);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_PATIENCE_S);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
    curl_easy_setopt(curl, CURLOPT_USERNAME, api->options->user);
    curl_easy_setopt(curl, CURLOPT_PASSWORD, api->options->password);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, came);
    if (body)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    CURLcode code = curl_easy_perform(curl);
    if (code == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, status);
    curl_slist_free_all(headers);
    return code;
}

/* ---- an answer ---- */

static int refused(long status, const json_t *answer, struct failure *failure)
{
    const char *reason = json_string_value(json_object_get(answer, "reason"));
    int code = status == 401 ? E_LOGIN : status == 404 ? E_NOT_FOUND : E_INVALID;

    return fail(failure, code, "the broker refuses (%ld): %s", status,
                reason ? reason : "no reason given");
}

static int take_answer(const struct bytes *came, long status, json_t **answer,
                       struct failure *failure)
{
    json_error_t error;
    json_t *value = came->size > 0 ? json_loadb(came->data, came->size, 0, &error) : NULL;
    int result = 0;

    if (came->size > 0 && !value)
        result = fail(failure, E_FAILED, "what came is no answer of a broker: %s", error.text);
    else if (status < 200 || status > 299)
        result = refused(status, value, failure);
    if (result == 0 && answer)
        *answer = value;
    else
        json_decref(value);
    return result;
}

int api_call(struct api *api, const char *method, const char *path, const char *const *words,
             json_t *body, json_t **answer, struct failure *failure)
{
    char *url = url_of(api, path, words);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct bytes came = {0};
    long status = 0;
    int result;

    if (answer)
        *answer = NULL;
    if (!url || (body && !text)) {
        result = fail(failure, E_MEMORY, "the request cannot be written");
    } else {
        CURLcode code = perform(api, method, url, text, &came, &status);
        if (code != CURLE_OK)
            result =
                fail(failure, E_CLOSED, "no answer from %s:%u: %s", api->options->host,
                     api->options->port, api->error[0] ? api->error : curl_easy_strerror(code));
        else
            result = take_answer(&came, status, answer, failure);
    }
    free(came.data);
    free(text);
    free(url);
    json_decref(body);
    return result;
}

/* ---- passwords ---- */

static int take_line(struct api_options *options, struct failure *failure)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size = getline(&line, &capacity, stdin);
    int result = 0;

    if (size > 0 && line[size - 1] == '\n')
        line[--size] = 0;
    if (size < 0)
        result = fail(failure, E_CLOSED, "no password came on the standard input");
    else if (size > API_PASSWORD_MAX)
        result = fail(failure, E_LIMIT, "the password is longer than %d bytes", API_PASSWORD_MAX);
    else
        memcpy(options->password, line, (size_t)size + 1);
    if (line)
        explicit_bzero(line, capacity);
    free(line);
    return result;
}

int api_read_password(struct api_options *options, struct failure *failure)
{
    struct termios before;
    bool is_terminal = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &before) == 0;

    if (is_terminal) {
        struct termios quiet = before;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        fprintf(stderr, "Password of %s: ", options->user);
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    }
    int result = take_line(options, failure);
    if (is_terminal) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
        fputc('\n', stderr);
    }
    return result;
}
