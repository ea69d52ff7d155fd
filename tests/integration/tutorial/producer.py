import pika

# A broker on this machine, on its default port, as guest.
with pika.BlockingConnection(pika.ConnectionParameters("localhost")) as connection:
    channel = connection.channel()
    channel.queue_declare(queue="dataops_queue")
    channel.basic_publish(exchange="", routing_key="dataops_queue", body="Hello DataOps!")
    print(" [x] Sent 'Hello DataOps!'")
