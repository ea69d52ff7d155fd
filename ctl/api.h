/*
 * The broker's management API, for the commands: one request after the other, over one connection.
 */
#ifndef SLUICE_CTL_API_H
#define SLUICE_CTL_API_H

#include "base/error.h"

#include <jansson.h>

#define API_PORT         15672
#define API_PASSWORD_MAX 1024

struct api_options {
    const char *host;
    unsigned port;
    const char *user;
    char password[API_PASSWORD_MAX + 1];
};

struct api;

/* The options stay as long as it. E_MEMORY. */
int api_open(const struct api_options *options, struct api **api,
             struct failure *failure) MUST_CHECK;
void api_close(struct api *api);

/*
 * `path` follows "/api/"; each `*` in it stands for the next of the words, NULL at their end, which
 * are encoded. `body` NULL: none; taken. *answer, which may be NULL, is the caller's; NULL where
 * there is no body.
 *
 * E_CLOSED: nobody answers there. E_LOGIN, E_NOT_FOUND, E_INVALID (the broker says no, with its
 * reason), E_FAILED: what came is no answer.
 */
int api_call(struct api *api, const char *method, const char *path, const char *const *words,
             json_t *body, json_t **answer, struct failure *failure) MUST_CHECK;

/* Reads one line from the standard input (without its end); a prompt with the echo off when that is
 * a terminal. E_CLOSED: there is none; E_LIMIT: too long. */
int api_read_password(struct api_options *options, struct failure *failure) MUST_CHECK;

#endif
