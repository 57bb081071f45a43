"""Fine-tune a published model on your own videos with a loop of your own: the pieces behind 'videozoo finetune'.

python examples/finetune.py DIR --model tsm_r50_k400          DIR has train/CLASS/*.mp4 and val/CLASS/*.mp4
"""

import argparse

import numpy as np
import torch

import videozoo
from videozoo import training as vt
from videozoo.data import load_folder
from videozoo.evaluation import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="tsm_r50_k400", help="see 'videozoo list'")
    parser.add_argument("--checkpoint", help="weights to start from instead of the published ones")
    parser.add_argument("--out", default="finetuned", help="folder for the result")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = vt.TrainConfig(epochs=args.epochs, probe_epochs=2, layer_decay=0.8, mixup=0.2, label_smoothing=0.1)
    train = load_folder(args.data, "train")
    val = load_folder(args.data, "val", class_names=train.class_names)
    model = vt.prepare_model(args.model, train, config, checkpoint_path=args.checkpoint).to(device)
    transform = videozoo.create_transform(model, is_training=True)
    clips = vt.TrainingClips(train, transform, seed=config.seed)
    batches = vt.ClipBatches(train, config.batch_size, seed=config.seed, class_balanced=True)
    loader = vt.training_loader(clips, batches, workers=config.workers, device=device)
    mixer, rng = vt.Mixer(config, model.num_classes), np.random.default_rng(config.seed)
    lr = vt.scaled_lr(config, config.batch_size)

    for epoch in range(config.epochs):
        if epoch in (0, config.probe_epochs):  # what learns changes, so the optimiser is made anew
            vt.set_probing(model, epoch < config.probe_epochs)
            optimizer = vt.make_optimizer(model, config, lr)
        vt.train_mode(model)
        batches.epoch = epoch
        for step, batch in enumerate(loader):
            factor = vt.learning_rate_factor(epoch * len(batches) + step, len(batches), config)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"] * factor
            x, targets = mixer(transform.normalize(batch.frames, device), batch.targets.to(device), rng)
            loss = vt.clip_loss(model(x), targets, config)  # (N, C, T, H, W) -> (N, classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        metrics = evaluate(model, val).metrics
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, validation top-1 {metrics['top1']:.1f} %")
    videozoo.save_pretrained(model, args.out)  # videozoo predict VIDEO --model local-dir:OUT


if __name__ == "__main__":
    main()
