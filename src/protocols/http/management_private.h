/* The handlers that the table of routes names. */
#ifndef SLUICE_HTTP_MANAGEMENT_PRIVATE_H
#define SLUICE_HTTP_MANAGEMENT_PRIVATE_H

#include "protocols/http/json.h"
#include "protocols/http/management.h"

http_step management_overview, management_whoami;
http_step management_queues, management_queues_of_vhost, management_queue;
http_step management_browse, management_get, management_publish;
http_step management_queue_action, management_rebalance;

#endif
