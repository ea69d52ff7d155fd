import sys

import pika


def received(channel, method, properties, body):
    print(f" [x] Received {body.decode()}")
    channel.basic_ack(delivery_tag=method.delivery_tag)


host = sys.argv[1] if len(sys.argv) > 1 else "localhost"
connection = pika.BlockingConnection(pika.ConnectionParameters(host))
channel = connection.channel()
channel.queue_declare(queue="dataops_queue")
channel.basic_consume(queue="dataops_queue", on_message_callback=received)
print(" [*] Waiting for messages. To exit press CTRL+C")
channel.start_consuming()
