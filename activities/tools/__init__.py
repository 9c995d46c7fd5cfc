"""How is each tool run? One module per noun; `dispatch.run_tool` is the way in."""
