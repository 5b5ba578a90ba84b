//! A WASM function as assembly text: parameters, locals and instructions in exactly the order they are emitted.

use std::fmt::Write;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local(usize);

/// One function without a result.
pub struct Function {
    name: String,
    parameters: usize,
    locals: Vec<&'static str>,
    body: String,
}

impl Function {
    /// `parameters` are all i32.
    pub fn new<const N: usize>(name: String) -> (Self, [Local; N]) {
        let function = Function { name, parameters: N, locals: Vec::new(), body: String::new() };
        (function, std::array::from_fn(Local))
    }

    pub fn i32_local(&mut self) -> Local {
        self.local("i32")
    }

    pub fn v128(&mut self) -> Local {
        self.local("v128")
    }

    fn local(&mut self, kind: &'static str) -> Local {
        self.locals.push(kind);
        Local(self.parameters + self.locals.len() - 1)
    }

    pub fn v128s(&mut self, count: usize) -> Vec<Local> {
        (0..count).map(|_| self.v128()).collect()
    }

    /// Any instruction, its operands as text.
    pub fn op(&mut self, text: &str) -> &mut Self {
        writeln!(self.body, "  {text}").unwrap();
        self
    }

    pub fn get(&mut self, local: Local) -> &mut Self {
        self.op(&format!("local.get {}", local.0))
    }

    pub fn set(&mut self, local: Local) -> &mut Self {
        self.op(&format!("local.set {}", local.0))
    }

    pub fn tee(&mut self, local: Local) -> &mut Self {
        self.op(&format!("local.tee {}", local.0))
    }

    /// Pushes what `instruction` loads from `pointer + offset`.
    pub fn load(&mut self, instruction: &str, pointer: Local, offset: usize) -> &mut Self {
        self.get(pointer).op(&format!("{instruction} {offset}"))
    }

    pub fn i32(&mut self, value: usize) -> &mut Self {
        self.op(&format!("i32.const {value}"))
    }

    /// `pointer += bytes`
    pub fn advance(&mut self, pointer: Local, bytes: usize) -> &mut Self {
        self.get(pointer).i32(bytes).op("i32.add").set(pointer)
    }

    /// Repeats `body` `counter` times, at least once.
    pub fn repeat(&mut self, counter: Local, body: impl FnOnce(&mut Self)) {
        self.op("loop");
        body(self);
        self.get(counter).i32(1).op("i32.sub").tee(counter).op("br_if 0").op("end_loop");
    }

    pub fn text(&self) -> String {
        let Function { name, parameters, locals, body } = self;
        let parameters = vec!["i32"; *parameters].join(", ");
        let locals = locals.join(", ");
        format!(
            ".section .text.{name},\"\",@\n.globl {name}\n.type {name},@function\n{name}:\n  \
             .functype {name} ({parameters}) -> ()\n  .local {locals}\n{body}  end_function\n"
        )
    }
}
