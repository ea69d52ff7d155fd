/* The handlers that the table of routes names. */
#ifndef SLUICE_HTTP_MANAGEMENT_PRIVATE_H
#define SLUICE_HTTP_MANAGEMENT_PRIVATE_H

#include "protocols/http/json.h"
#include "protocols/http/management.h"

http_step management_overview, management_whoami;
http_step management_queues, management_queues_of_vhost, management_queue;
http_step management_browse, management_get, management_publish;
http_step management_redrive, management_redrives, management_redrive_one;
http_step management_redrive_stop;
http_step management_queue_action, management_rebalance;
http_step management_policies, management_policies_of_vhost, management_policy;
http_step management_set_policy, management_clear_policy;
http_step management_operator_policies, management_operator_policies_of_vhost;
http_step management_operator_policy;
http_step management_set_operator_policy, management_clear_operator_policy;

#endif
