"""The Flower app: the message API's FedAvg, and a client that trains.

After Flower's quick start for PyTorch, without its evaluation, which sends the model once more.
"""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.peers import task

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on the hospital's films."""
    model = task.Network()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    loss = task.train(model, task.name_of(int(context.node_config["partition-id"])))
    metrics = MetricRecord({"train_loss": loss, "num-examples": task.settings().films})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, and keep the final model."""
    del context
    known = task.settings()
    all_of_them = known.hospitals
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=all_of_them, min_available_nodes=all_of_them
    )
    initial = ArrayRecord(task.Network().state_dict())
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=known.rounds)
    torch.save(result.arrays.to_torch_state_dict(), task.folder() / "final.pt")
