"""The commands: `mixlm train`, `mixlm evaluate`, `mixlm decode`, `mixlm explain`."""
