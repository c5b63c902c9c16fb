"""The five steps joined: what `medserve inspect | train | evaluate | explain` do, in the order it happens."""
