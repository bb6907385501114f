"""RNN, LSTM and GRU: layers, language models, classifiers, sequence to sequence."""
