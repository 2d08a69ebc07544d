"""The paper's "plain CNN" (Table 2): three convolutions and two fully connected layers.

Source: released model/net.py with its params.json (32 channels, dropout 0.5).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: TID253, N812  reached only through importlib
from torch import Tensor, nn  # noqa: TID253  reached only through importlib


class PlainCNN(nn.Module):
    """Conv-BN-pool-ReLU three times, then FC-BN-ReLU-dropout and FC."""

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(128)
        self.fc1 = nn.Linear(128 * 4 * 4, 128)
        self.bn4 = nn.BatchNorm1d(128)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = images_NCHW
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            maps = F.relu(F.max_pool2d(bn(conv(maps)), 2))  # pooled before the ReLU, as released
        maps = F.adaptive_avg_pool2d(maps, 4)  # the identity at 32 px; lets other sizes in
        hidden = F.relu(self.bn4(self.fc1(maps.flatten(1))))
        logits_NK: Tensor = self.fc2(self.dropout(hidden))
        return logits_NK
