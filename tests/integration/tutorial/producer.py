import sys

import pika

# A broker on its default port, as guest.
host = sys.argv[1] if len(sys.argv) > 1 else "localhost"
with pika.BlockingConnection(pika.ConnectionParameters(host)) as connection:
    channel = connection.channel()
    channel.queue_declare(queue="dataops_queue")
    channel.basic_publish(exchange="", routing_key="dataops_queue", body="Hello DataOps!")
    print(" [x] Sent 'Hello DataOps!'")
